"""Redis's error replies as our exceptions: the one place that reads their texts. Pure."""

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
"""Beginnings of errors whose code says nothing."""


def redis_error(reply: object) -> RedisAIError:
    """The exception that an error reply means. Its text is Redis's own.

    Args: reply: what hiredis makes of an error, its text, or an exception of ours, which is returned as it is.
    """
    if isinstance(reply, RedisAIError):
        return reply
    text = str(reply)
    kind = _BY_CODE.get(text.partition(" ")[0])
    if kind is not None:
        return kind(text)
    if text.startswith("WRONGTYPE "):
        return WrongType(text)
    if "WRONGTYPE " in text:  # older Redis puts where in a script it happened before it
        return WrongType()
    return next((kind for beginning, kind in _BY_TEXT if text.startswith(beginning)), UpstreamError)(text)


def error_in(raw: bytes) -> RedisAIError | None:
    """The exception that a reply means as it came (`-...`), None if it is not an error."""
    return redis_error(raw[1:].decode("utf-8", "replace").strip()) if raw[:1] == b"-" else None
