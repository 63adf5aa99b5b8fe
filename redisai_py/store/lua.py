"""The store's Lua scripts, for identities that may run scripts.

AI.TENSORSET and outputs must not overwrite a key that holds something else. A plain SET would, and asking first leaves
a window and costs a round trip; a script checks and writes in one step (docs/adr/0004). Without the right to EVAL, the
store asks first. A second script writes results computed from cached values, after comparing these with what Redis
holds (docs/adr/0013).
"""

from __future__ import annotations

import hashlib

__all__ = [
    "DELETE_KIND",
    "PROBE",
    "PROBE_SIZE",
    "SET_IF_SAME",
    "SET_IF_SAME_SHA",
    "SET_ONE",
    "SET_TENSORS",
    "SET_TENSORS_SHA",
    "format_set",
]

PROBE_SIZE = 128
"""Bytes of an existing value needed to recognise a tensor: our own headers of usual shapes have 128 bytes."""

# A key is free if it is absent or holds a tensor: the same header as the new one (the common case, so checked first), a
# header in our own form, or any safetensors header with exactly one tensor. If Redis refuses the write (no memory, a
# replica), the error is that of a plain SET; Redis 6 would add the script's line.
_IS_TENSOR = b"""
local call = redis.pcall
local function is_tensor(key, head)
  if #head < 9 or string.sub(head, 3, 9) ~= '\\0\\0\\0\\0\\0\\0{' then return false end
  local sizes = {F16=2, BF16=2, F32=4, F64=8, I8=1, I16=2, I32=4, I64=8, U8=1, U16=2, U32=4, U64=8, BOOL=1}
  local own = '^{"tensor":{"dtype":"([A-Z0-9]+)","shape":%[[0-9,]*%],"data_offsets":%[0,[0-9]+%]}} *$'
  local dtype = string.match(head, own, 9)
  if dtype then return sizes[dtype] end
  local size = string.byte(head, 1) + 256 * string.byte(head, 2)
  local ok, header = pcall(cjson.decode, redis.call('GETRANGE', key, 8, 7 + size))
  if not ok or type(header) ~= 'table' then return false end
  local tensors = 0
  for name, entry in pairs(header) do
    if name ~= '__metadata__' then
      tensors = tensors + 1
      if type(entry) ~= 'table' then return false end
      local size, shape, offsets = sizes[entry.dtype or ''], entry.shape, entry.data_offsets
      if not size or type(shape) ~= 'table' or #shape > 64 or type(offsets) ~= 'table' then return false end
      for _, n in ipairs(shape) do
        if type(n) ~= 'number' or n < 0 then return false end
        size = size * n
      end
      if offsets[1] ~= 0 or offsets[2] ~= size or offsets[3] then return false end
    end
  end
  return tensors == 1
end
"""
# Writes ARGV[i] under KEYS[i]; the words from `options` on are options of SET.
_WRITE = b"""
for i = 1, #KEYS do
  local key = KEYS[i]
  local head = call('GETRANGE', key, 0, 127)
  if head ~= string.sub(ARGV[i], 1, 128) then
    if type(head) == 'table' then return head end
    if head == '' and call('EXISTS', key) == 1 then head = '-' end
    if head ~= '' and not is_tensor(key, head) then
      return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
    end
  end
end
local reply
for i = 1, #KEYS do
  if ARGV[options] then
    reply = call('SET', KEYS[i], ARGV[i], unpack(ARGV, options))
  else
    reply = call('SET', KEYS[i], ARGV[i])
  end
  if reply.err then return redis.error_reply((string.gsub(reply.err, '^@user_script: ?%d+: %-?', ''))) end
end
return reply or redis.status_reply('OK')
"""
SET_TENSORS = _IS_TENSOR + b"local options = #KEYS + 1" + _WRITE

# After the values: the numbers of tensors and models to compare, then for each its key and its string or id. These keys
# are not declared, so the user only needs the right to read them. The reply is the number of the first one that has
# changed; a user who may not GET or HGET gets an error code of our own.
_COMPARE = b"""
local options = #KEYS + 3
local tensors = tonumber(ARGV[options - 2])
for i = 1, tensors + tonumber(ARGV[options - 1]) do
  local held
  if i <= tensors then held = call('GET', ARGV[options]) else held = call('HGET', ARGV[options], 'id') end
  if held ~= ARGV[options + 1] then
    if type(held) == 'table' and not string.find(held.err, 'WRONGTYPE', 1, true) then
      return redis.error_reply('UNPROVEN ' .. held.err)
    end
    return i
  end
  options = options + 2
end
"""
SET_IF_SAME = _IS_TENSOR + _COMPARE + _WRITE


def _sha(script: bytes) -> bytes:
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


SET_TENSORS_SHA = _sha(SET_TENSORS)
SET_IF_SAME_SHA = _sha(SET_IF_SAME)

PROBE = ((b"SCRIPT", b"LOAD", SET_TENSORS), (b"SCRIPT", b"LOAD", SET_IF_SAME))

SET_ONE = b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n" + SET_TENSORS_SHA + b"\r\n$1\r\n1\r\n"
"""The command that sets one tensor, up to key and value."""


def format_set(key: bytes, value: bytes) -> bytes:
    """The encoded command that sets one tensor."""
    return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (SET_ONE, len(key), key, len(value), value)


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
"""Delete a model or script, or refuse. Reply: number of deleted keys."""
