"""What a turn is given: who its client is, and the connection that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from redisai_py.frontdoor.held_replies import ReplyStream, Streamed
from redisai_py.resp.templates import Burst, Command
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity

__all__ = ["Caller", "Client", "Pipeline"]


class Caller(Protocol):
    """Who the client is to Redis. access: set once Redis has vouched for the client."""

    protocol: int
    identity: Identity
    access: Access | None

    async def authenticated(self) -> Access:
        """The identity's access, opened if need be. Raises UpstreamError with Redis's NOAUTH."""

    async def authenticated_in_multi(self) -> Access:
        """The same inside a transaction."""

    @property
    def capture(self) -> Callable[[list[list[Any]]], Coroutine[Any, Any, list[bytes]]]:
        """Sends commands on the client's own connection; gives their raw replies."""


class Pipeline(Protocol):
    """What is held of a pipeline."""

    def release(self) -> None:
        """Send it."""


class Client(Protocol):
    """What a turn asks of the connection that it belongs to."""

    def start(self, command: Command | Burst) -> bool:
        """Start a command; False if it must wait until other work of this client is done."""

    def begin_pipeline(self) -> Pipeline | None:
        """Several commands are about to start, back to back: hold what they send, if there is a connection to Redis."""

    def drained(self) -> None:
        """What waits cannot start now, or nothing waits."""

    def stream(self, reply: Streamed) -> ReplyStream:
        """Make a stream of a reply that is too large to be held."""

    def hang_up(self) -> None:
        """Close once the client has read what was sent; nothing more is done for it."""
