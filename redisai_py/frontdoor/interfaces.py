"""The interfaces that a turn uses: the client's session, and its connection."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from redisai_py.frontdoor.held_replies import ReplyStream, Streamed
from redisai_py.resp.templates import Burst, Command
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity

__all__ = ["Caller", "Client", "Pipeline"]


class Caller(Protocol):
    """The client's state at Redis. access: set once Redis has authenticated the client."""

    protocol: int
    identity: Identity
    access: Access | None

    async def authenticated(self) -> Access:
        """The identity's access, opened if necessary. Raises UpstreamError with Redis's NOAUTH."""

    async def authenticated_in_multi(self) -> Access:
        """The same inside a transaction."""

    @property
    def capture(self) -> Callable[[list[list[Any]]], Coroutine[Any, Any, list[bytes]]]:
        """Send commands on the client's own connection. Returns: their raw replies."""


class Pipeline(Protocol):
    """Held data of a pipeline."""

    def release(self) -> None:
        """Send it."""


class Client(Protocol):
    """The client's connection, as its turn uses it."""

    def start(self, command: Command | Burst) -> bool:
        """Start a command; False if it must wait for other work of this client."""

    def begin_pipeline(self) -> Pipeline | None:
        """Several commands are about to start: hold what they send, if there is a connection to Redis."""

    def drained(self) -> None:
        """Waiting commands cannot start now, or none waits."""

    def stream(self, reply: Streamed) -> ReplyStream:
        """Make a stream for a reply that is too large to hold."""

    def hang_up(self) -> None:
        """Close once the client has read what was sent; nothing more is done for it."""
