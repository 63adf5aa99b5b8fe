"""The store's access to Redis: the interface of its connections."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from redisai_py.resp.redis_errors import redis_error

__all__ = ["Caller", "Link", "commit", "executed", "last_reply", "rehearse", "transaction"]


class Caller(Protocol):
    """Sends one command and returns its reply."""

    rehearsed: bool
    """Whether `rehearse` was called on this connection."""

    def call(self, *argv: Any) -> Awaitable[Any]:
        """Raises the exception that `redis_error` returns for an error reply."""


class Link(Protocol):
    """An identity's connections."""

    scripting: bool
    """Whether Redis lets this identity run scripts."""

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Awaitable[Any]]:
        """Send commands on the shared stream in one write."""

    def dedicated(self) -> AbstractAsyncContextManager[Caller]:
        """An exclusive connection."""

    def forget(self, keys: Iterable[bytes]) -> None:
        """These keys are being written, so their cached values become stale."""

    def wrote(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """These keys hold these strings now."""


def transaction(commands: Iterable[Sequence[Any]] = ()) -> list[Sequence[Any]]:
    """The commands between MULTI and EXEC."""
    return [(b"MULTI",), *commands, (b"EXEC",)]


async def last_reply(pendings: Sequence[Awaitable[Any]]) -> Any:
    """The value of the last of several commands sent together; raises the first error of any of them."""
    values = [await pending for pending in pendings]
    return values[-1]


async def commit(connection: Caller, commands: Iterable[Sequence[Any]] = ()) -> list[Any] | None:
    """Send a transaction. Returns: its replies, or None if a watched key was changed and nothing was done.

    Raises: RedisAIError: the first error of any of them.
    """
    return await executed([connection.call(*command) for command in transaction(commands)])


async def executed(pendings: Sequence[Awaitable[Any]]) -> list[Any] | None:
    """The result of `commit`, from the pending replies of a transaction."""
    replies: list[Any] | None = await last_reply(pendings)
    for reply in replies or ():
        if isinstance(reply, Exception):
            raise redis_error(reply)
    return replies


async def rehearse(connection: Caller) -> None:
    """Send an empty transaction before a connection's first one. Raises UpstreamError: Redis refuses it.

    If a user may not use MULTI, Redis executes the commands after it one by one, ignoring WATCH, and the error comes
    too late.
    """
    if not connection.rehearsed:
        await commit(connection)
        connection.rehearsed = True
