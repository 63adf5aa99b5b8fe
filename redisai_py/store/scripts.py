"""The one Lua script that the store uses where Redis allows scripts: write tensors, or refuse all of them.

AI.TENSORSET and outputs must not overwrite a key that holds something else. A plain SET would, and asking first
leaves a window and costs a round trip; the script checks and writes in one step (docs/adr/0004). Where EVAL is
withheld the store asks first instead.
"""

from __future__ import annotations

import hashlib

from redisai_py.tensor import Buffer

__all__ = ["DELETE_KIND", "PROBE", "PROBE_SIZE", "SET_TENSORS", "SET_TENSORS_SHA", "format_set_prefix"]

PROBE_SIZE = 128
"""Bytes of an existing value that tell a tensor: our own headers of usual shapes are 128 bytes long."""

# A key is free if it is absent, or holds a tensor: the same header as the new one (the common case), a header of the
# form that we write, or any safetensors header with exactly one tensor in it. Words behind the values are options of
# SET. The read after each write makes Redis track the key for the near cache: a write alone ends the tracking. What
# Redis refuses (no memory, a replica) is refused in the words of a plain SET; Redis 6 would add the script's line.
SET_TENSORS = b"""
local function is_tensor(key, head)
  if #head < 9 or string.sub(head, 3, 9) ~= '\\0\\0\\0\\0\\0\\0{' then return false end
  local known = {F16=1, BF16=1, F32=1, F64=1, I8=1, I16=1, I32=1, I64=1, U8=1, U16=1, U32=1, U64=1, BOOL=1}
  local own = '^{"tensor":{"dtype":"([A-Z0-9]+)","shape":%[[0-9,]*%],"data_offsets":%[0,[0-9]+%]}} *$'
  local dtype = string.match(head, own, 9)
  if dtype then return known[dtype] end
  local size = string.byte(head, 1) + 256 * string.byte(head, 2)
  local ok, header = pcall(cjson.decode, redis.call('GETRANGE', key, 8, 7 + size))
  if not ok or type(header) ~= 'table' then return false end
  local tensors = 0
  for name, entry in pairs(header) do
    if name ~= '__metadata__' then
      tensors = tensors + 1
      if type(entry) ~= 'table' or not known[entry.dtype or ''] then return false end
    end
  end
  return tensors == 1
end
for i, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, 127)
  if type(head) == 'table' then return head end
  if head == '' then
    if redis.call('EXISTS', key) == 1 then head = '-' end
  end
  if head ~= '' and head ~= string.sub(ARGV[i], 1, 128) and not is_tensor(key, head) then
    return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
  end
end
for i, key in ipairs(KEYS) do
  local refused = redis.pcall('SET', key, ARGV[i], unpack(ARGV, #KEYS + 1)).err
  if refused then return redis.error_reply((string.gsub(refused, '^@user_script: ?%d+: %-?', ''))) end
  redis.call('STRLEN', key)
end
return redis.status_reply('OK')
"""
SET_TENSORS_SHA = hashlib.sha1(SET_TENSORS, usedforsecurity=False).hexdigest().encode()

PROBE = (b"SCRIPT", b"LOAD", SET_TENSORS)

_SET_ONE = b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n" + SET_TENSORS_SHA + b"\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b"


def format_set_prefix(key: Buffer, header: bytes, size: int) -> bytes:
    """Everything of the command that sets one tensor but its data (`size` bytes) and the final CR LF."""
    return _SET_ONE % (len(key), key, len(header) + size, header)


DELETE_KIND = b"""
local kind = redis.pcall('HGET', KEYS[1], 'kind')
if type(kind) == 'table' then return kind end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if kind ~= ARGV[1] then
  return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
end
local gone = redis.pcall('DEL', KEYS[1])
if type(gone) == 'table' then return redis.error_reply((string.gsub(gone.err, '^@user_script: ?%d+: %-?', ''))) end
return gone
"""
"""Delete a model or script, or refuse: how many keys were deleted."""
