"""The kind of a key's value, where one command is ambiguous: an absent key gives the same reply as an empty string, or
as a foreign hash.

Telling them apart takes a second look, and others may write the key in between. Their value must not be mistaken for
one of the wrong kind. So either the second look asks for both type and value, which Redis executes consecutively, or it
is followed by a check whether a WATCH still holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey, RedisAIError, WrongType
from redisai_py.model import Kind
from redisai_py.store import codec
from redisai_py.store.link import Caller, Link, commit, rehearse
from redisai_py.store.lua import PROBE_SIZE

__all__ = ["hash_fields", "no_string", "tensor_or_absent", "watch_kind", "watch_tensors"]


async def no_string(link: Link, key: bytes) -> RedisAIError:
    """The error for a key for which MGET returned nil: it is absent, or holds another type than a string."""
    (kind,) = link.pipeline([(b"TYPE", key)])
    # If it is a string now, it was written after the MGET.
    return MissingKey(TENSOR_KEY_EMPTY) if await kind in (b"none", b"string") else WrongType()


async def tensor_or_absent(link: Link, key: bytes) -> bool:
    """Whether a tensor is there. Raises WrongType if something else is."""
    look = (b"GETRANGE", key, 0, codec.MAX_HEADER + 8)
    (head,) = link.pipeline([look])
    value = await head
    if not value:
        kind, again = link.pipeline([(b"TYPE", key), look])
        if await kind == b"none":
            return False
        value = await again
    codec.read_header(bytes(value[: codec.header_size(value)]))
    return True


async def hash_fields(
    link: Link, key: bytes, names: Sequence[bytes], pending: Awaitable[Any], missing: str
) -> list[bytes | None]:
    """The values of a hash's fields. All of our hashes have the first field.

    Args:   pending: the pending reply of `HMGET key *names`.
    Raises: MissingKey, with the text `missing`; WrongType.
    """
    values: list[bytes | None] = await pending
    if values[0] is None:
        kind, again = link.pipeline([(b"TYPE", key), (b"HMGET", key, *names)])
        if await kind == b"none":
            raise MissingKey(missing)
        values = await again
    if values[0] is None:
        raise WrongType
    return values


async def watch_tensors(connection: Caller, keys: Iterable[bytes]) -> bool:
    """WATCH keys, each of which is absent or holds a tensor. False: one was changed since, and nothing is watched.

    Raises: WrongType: one holds something else.   UpstreamError.
    """
    await rehearse(connection)
    keys = list(keys)
    watch = connection.call(b"WATCH", *keys)
    heads = [connection.call(b"GETRANGE", key, b"0", b"%d" % (PROBE_SIZE - 1)) for key in keys]
    await watch
    try:
        for key, head in zip(keys, heads, strict=True):
            await _check_head(connection, key, await head)
    except WrongType:
        if await _unchanged(connection):
            raise
        return False
    return True


async def _check_head(connection: Caller, key: bytes, head: bytes) -> None:
    """Raise WrongType unless the value begins like a tensor, or the key is absent."""
    if not head:
        if await connection.call(b"EXISTS", key):
            raise WrongType
        return
    size = codec.header_size(head)
    if size > len(head):
        head = await connection.call(b"GETRANGE", key, b"0", b"%d" % (size - 1))
    codec.read_header(bytes(head[:size]))


async def watch_kind(connection: Caller, key: bytes, kind: Kind) -> None:
    """WATCH a key that is absent or holds a value of this kind. Raises WrongType, UpstreamError."""
    await rehearse(connection)
    while True:
        watch = connection.call(b"WATCH", key)
        exists = connection.call(b"EXISTS", key)
        found = connection.call(b"HGET", key, b"kind")
        await watch
        if not await exists or await found == kind.value:
            return
        if await _unchanged(connection):
            raise WrongType


async def _unchanged(connection: Caller) -> bool:
    """Whether the watched keys are unchanged since their WATCH. Ends the WATCH."""
    return await commit(connection) is not None
