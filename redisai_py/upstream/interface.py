"""One identity's way to Redis: all that commands and the store know of it.

Today it leads to one server (`upstream.single`). Behind the same interface another implementation can find the node of
a key in a cluster; a Sentinel's master needs only another `Opener` (docs/adr/0037).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from redisai_py.pending import Pending
from redisai_py.upstream.address import Identity
from redisai_py.upstream.large import LargeUpstream
from redisai_py.upstream.shared import Callback, SharedUpstream

__all__ = ["Begin", "Stream", "Upstream"]

S = TypeVar("S", bound=SharedUpstream)


class Stream(Protocol):
    """A pipelined connection that all clients of an identity share: replies come in the order of the commands."""

    closed: bool
    waiting: deque[Callback]
    """What gets the replies still to come, in order."""

    def send(self, data: bytes, callback: Callback) -> None:
        """Send one encoded command at the end of this iteration of the loop; `callback` gets the reply, or the error of
        its loss. Raises: UpstreamLost: it is closed, and nothing was sent.
        """

    def send_now(self, data: bytes, callback: Callback) -> None:
        """The same at once."""

    def send_row(self, data: bytes, callbacks: Sequence[Callback]) -> None:
        """Send several encoded commands; each callback gets one reply."""

    def flush(self) -> None:
        """Write now what was sent in this iteration of the loop."""

    def call(self, *argv: Any) -> Pending[Any]:
        """One command; its value is the reply, its error what `redis_error` makes of one."""

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Pending[Any]]:
        """Several commands in one write."""


Begin = Callable[[Stream], Awaitable[None]]


class Upstream(Protocol):
    """Connections with the rights of one identity."""

    identity: Identity

    def stream(self, key: bytes) -> Stream | None:
        """The stream to the server that holds `key`; None: there is none now, `ensure` opens it."""

    async def ensure(self, begin: Begin) -> Stream:
        """Open what `stream` and `pipeline` need. begin: is done on a new stream before anybody uses it.

        Raises: UpstreamError.
        """

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send commands on a stream in one write; the caller has awaited `ensure`."""

    def dedicated(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """A connection to oneself, from a bounded pool, for what goes on without waiting for anybody but Redis; after
        an error it is closed, since its state is not known.
        """

    def apart(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """A connection to oneself for as long as others take: a client that sends or reads something large, or models
        that run while keys are under WATCH.

        It comes from a pool of its own, and one that has as many as are asked for, at most one for each client: those
        who had to wait for one would wait for the slowest client, or miss the batch for which the others wait.
        """

    async def open_stream(self, kind: Callable[[], S]) -> S:
        """A further stream, for which the caller is responsible. Raises: UpstreamError."""

    @property
    def connection_counts(self) -> tuple[int, int]:
        """How many streams, and how many connections to oneself, are open."""

    def abort(self) -> None:
        """Cut the streams: they hang."""

    def close(self) -> None:
        """Close every connection that is not in use; those in use are closed when given back."""
