"""How the store reaches Redis: the interface of its connections."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from redisai_py.resp.redis_errors import redis_error

__all__ = ["Caller", "Link", "commit", "executed", "last_reply", "rehearse", "transaction"]


class Caller(Protocol):
    """Something that sends one command and gives its reply."""

    rehearsed: bool
    """Whether `rehearse` has been here."""

    def call(self, *argv: Any) -> Awaitable[Any]:
        """Raises what `redis_error` makes of an error reply."""


class Link(Protocol):
    """An identity's connections."""

    scripting: bool
    """Whether Redis lets this identity run scripts."""

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Awaitable[Any]]:
        """Send commands on the shared stream in one write."""

    def dedicated(self) -> AbstractAsyncContextManager[Caller]:
        """A connection to oneself for a while."""

    def forget(self, keys: Iterable[bytes]) -> None:
        """These keys are being written: what is known of their values will be out of date."""

    def wrote(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """These keys hold these strings now."""


def transaction(commands: Iterable[Sequence[Any]] = ()) -> list[Sequence[Any]]:
    """The commands between MULTI and EXEC."""
    return [(b"MULTI",), *commands, (b"EXEC",)]


async def last_reply(pendings: Sequence[Awaitable[Any]]) -> Any:
    """The value of the last of several commands sent together; the first error of any of them is raised."""
    values = [await pending for pending in pendings]
    return values[-1]


async def commit(connection: Caller, commands: Iterable[Sequence[Any]] = ()) -> list[Any] | None:
    """Send a transaction; the replies of its commands, or None: a watched key was changed, and nothing was done.

    Raises: RedisAIError: the first error of any of them.
    """
    return await executed([connection.call(*command) for command in transaction(commands)])


async def executed(pendings: Sequence[Awaitable[Any]]) -> list[Any] | None:
    """What `commit` gives, of the coming replies of a transaction."""
    replies: list[Any] | None = await last_reply(pendings)
    for reply in replies or ():
        if isinstance(reply, Exception):
            raise redis_error(reply)
    return replies


async def rehearse(connection: Caller) -> None:
    """Send an empty transaction before a connection's first. Raises UpstreamError: Redis refuses it.

    Where MULTI is refused to a user, what is sent behind it is carried out one by one, whatever WATCH was for, and the
    reply is the refusal all the same.
    """
    if not connection.rehearsed:
        await commit(connection)
        connection.rehearsed = True
