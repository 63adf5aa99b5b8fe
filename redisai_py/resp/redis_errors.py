"""Redis's error replies as our exceptions: the only module that reads their texts. Pure."""

from __future__ import annotations

from redisai_py.errors import (
    Busy,
    Loading,
    Moved,
    NoRoom,
    NoScript,
    NoSuchKey,
    NotAuthenticated,
    NotPermitted,
    OutOfMemory,
    RedisAIError,
    TransactionAborted,
    Unproven,
    UpstreamError,
    WrongFraming,
    WrongType,
)

__all__ = ["error_in", "redis_error"]

_BY_CODE: dict[str, type[UpstreamError]] = {
    "ASK": Moved,
    "BUSY": Busy,
    "CLUSTERDOWN": Busy,
    "DENIED": NoRoom,
    "EXECABORT": TransactionAborted,
    "LOADING": Loading,
    "MASTERDOWN": Loading,
    "MOVED": Moved,
    "NOAUTH": NotAuthenticated,
    "NOPERM": NotPermitted,
    "NOSCRIPT": NoScript,
    "OOM": OutOfMemory,
    "TRYAGAIN": Busy,
    "UNPROVEN": Unproven,
}
_BY_TEXT: tuple[tuple[str, type[UpstreamError]], ...] = (
    ("ERR max number of clients", NoRoom),
    ("ERR no such key", NoSuchKey),
    ("ERR Protocol error", WrongFraming),
)
"""Prefixes of errors whose code is not specific."""


def redis_error(reply: object) -> RedisAIError:
    """The exception for an error reply. Its text is Redis's own.

    Args: reply: hiredis's error object, its text, or one of our exceptions, which is returned unchanged.
    """
    if isinstance(reply, RedisAIError):
        return reply
    text = str(reply)
    kind = _BY_CODE.get(text.partition(" ")[0])
    if kind is not None:
        return kind(text)
    if text.startswith("WRONGTYPE "):
        return WrongType(text)
    if "WRONGTYPE " in text:  # older Redis prefixes where in a script it happened
        return WrongType()
    return next((kind for beginning, kind in _BY_TEXT if text.startswith(beginning)), UpstreamError)(text)


def error_in(raw: bytes) -> RedisAIError | None:
    """The exception for a raw reply (`-...`), None if it is not an error."""
    return redis_error(raw[1:].decode("utf-8", "replace").strip()) if raw[:1] == b"-" else None
