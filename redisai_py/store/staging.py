"""Staging: what several commands store is written under a temporary name, and published by one RENAME.

Staged keys expire, so Redis may evict them, and a server that ends leaves nothing behind. Others may flush the
database.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from redisai_py.errors import NoSuchKey, UpstreamError
from redisai_py.store.link import Caller, Link, commit, last_reply

__all__ = [
    "STAGED_LOST",
    "STAGED_TAIL",
    "STAGING_TTL_S",
    "discard",
    "is_staged",
    "rename",
    "staged_head",
    "staging_key",
]

STAGING_TTL_S = 3600
_STAGED = re.compile(rb":staging:[0-9a-f]{32}\Z")
_STAGED_SUFFIX = len(":staging:") + 32
STAGED_LOST = "ERR Redis dropped the staged value before it was published; nothing was stored"


STAGED_TAIL = b"\r\n$2\r\nEX\r\n$4\r\n%d\r\n" % STAGING_TTL_S
"""The bytes after a value announced by `staged_head`."""


def staging_key(key: bytes, unique: bytes) -> bytes:
    """A temporary name: it begins with the final name, so that ACL patterns cover it, and hashes to the same slot."""
    return b"%b:staging:%b" % (key, unique) + (b"" if b"{" in key else b"{%b}" % key)


def is_staged(key: bytes) -> bool:
    """Whether `staging_key` made this name. Does not search, because keys may be very long."""
    if key.endswith(b"}"):
        size = (len(key) - _STAGED_SUFFIX - 2) // 2  # of the final name, which it contains twice
        if size < 0 or key[size + _STAGED_SUFFIX :] != b"{%b}" % key[:size]:
            return False
        key = key[: size + _STAGED_SUFFIX]
    return _STAGED.search(key, max(0, len(key) - _STAGED_SUFFIX)) is not None


def staged_head(staging: bytes, size: int) -> bytes:
    """The command that stages a string of `size` bytes, up to the string."""
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(staging), staging, size)


async def rename(connection: Caller, staging: bytes, key: bytes, more: Iterable[Sequence[Any]] = ()) -> bool:
    """Publish a staged key, after `more` commands; False if a watched key was changed."""
    try:
        return await commit(connection, [*more, (b"PERSIST", staging), (b"RENAME", staging, key)]) is not None
    except NoSuchKey as error:
        raise UpstreamError(STAGED_LOST) from error


async def discard(link: Link, staging: bytes) -> None:
    """Delete a staged key on the shared stream, since its own connection may be lost. It would expire anyway."""
    with contextlib.suppress(UpstreamError):
        await last_reply(link.pipeline([(b"DEL", staging)]))
