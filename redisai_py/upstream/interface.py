"""One identity's connections to Redis: everything that commands and the store know of them.

Today they lead to one server (`upstream.single`). Another implementation of the interface could find the node of a key
in a cluster; a Sentinel's master needs only another `Opener` (docs/adr/0037).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from redisai_py.pending import Pending
from redisai_py.upstream.address import Identity
from redisai_py.upstream.burst_replies import BurstReplies
from redisai_py.upstream.large import LargeUpstream
from redisai_py.upstream.shared import Callback, SharedUpstream

__all__ = ["Begin", "Stream", "Upstream"]

S = TypeVar("S", bound=SharedUpstream)


class Stream(Protocol):
    """A pipelined connection that all clients of an identity share; replies come in the order of the commands."""

    closed: bool
    waiting: deque[Callback]
    """The callbacks for the outstanding replies, in order."""

    def send(self, data: bytes, callback: Callback) -> None:
        """Send one encoded command at the end of this iteration of the loop. `callback` gets the reply, or the error if
        the connection is lost. Raises: UpstreamLost: it is closed, and nothing was sent.
        """

    def send_now(self, data: bytes, callback: Callback) -> None:
        """The same, immediately."""

    def send_all(self, data: bytes, replies: BurstReplies) -> None:
        """Send the encoded commands that have these replies."""

    def flush(self) -> None:
        """Write immediately what was sent in this iteration of the loop."""

    def call(self, *argv: Any) -> Pending[Any]:
        """Send one command; the result is the reply, the error that of `redis_error`."""

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Pending[Any]]:
        """Send several commands in one write."""


Begin = Callable[[Stream], Awaitable[None]]


class Upstream(Protocol):
    """Connections with the rights of one identity."""

    identity: Identity

    def stream(self, key: bytes) -> Stream | None:
        """The stream to the server that holds `key`; None if there is none now: `ensure` opens it."""

    async def ensure(self, begin: Begin) -> Stream:
        """Open what `stream` and `pipeline` need. begin: called with a new stream before anybody uses it.

        Raises: UpstreamError.
        """

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send commands on a stream in one write, after `ensure`."""

    def dedicated(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """An exclusive connection from a bounded pool, for work that waits only for Redis. After an error it is closed,
        because its state is unknown.
        """

    def apart(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """An exclusive connection for work that may wait for others: a client that sends or reads something large, or
        models that run while keys are under WATCH.

        It comes from a separate, unbounded pool, with at most one connection per client. With a bounded pool, callers
        would wait for the slowest client, or miss the batch that others wait for.
        """

    async def open_stream(self, kind: Callable[[], S]) -> S:
        """Another stream, which belongs to the caller. Raises: UpstreamError."""

    @property
    def connection_counts(self) -> tuple[int, int]:
        """Number of open streams, and of open exclusive connections."""

    def abort(self) -> None:
        """Close the streams, because they hang."""

    def close(self) -> None:
        """Close every unused connection; those in use are closed when released."""
