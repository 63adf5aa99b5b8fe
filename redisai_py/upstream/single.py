"""One identity's connections to one Redis server; see `interface.Upstream`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import hiredis

from redisai_py.errors import NoRoom, UpstreamError, UpstreamLost
from redisai_py.resp.redis_errors import redis_error
from redisai_py.upstream.address import Identity
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.dialing import Opener
from redisai_py.upstream.interface import Begin
from redisai_py.upstream.large import LargeUpstream
from redisai_py.upstream.pool import Pool
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["SingleServer"]

S = TypeVar("S", bound=SharedUpstream)
_MOST_OPENINGS = 5
"""A connection may be lost before its waiters learn that it is open."""


class SingleServer:
    """A shared stream and two pools. upstream_pool: maximum connections of the bounded one."""

    def __init__(
        self, opener: Opener, identity: Identity, *, upstream_pool: int, busy_poll: BusyPoll | None = None
    ) -> None:
        self.identity = identity
        self._opener = opener
        self._busy_poll = busy_poll
        self._shared: SharedUpstream | None = None
        self._opening: asyncio.Task[SharedUpstream] | None = None
        self._large = Pool(opener, identity, upstream_pool)
        self._apart = Pool(opener, identity, upstream_pool, bounded=False)

    def stream(self, key: bytes) -> SharedUpstream | None:
        """See `Upstream`."""
        shared = self._shared
        return shared if shared is not None and not shared.closed else None

    async def ensure(self, begin: Begin) -> SharedUpstream:
        """See `Upstream`; single-flight."""
        shared = self._shared
        for _ in range(_MOST_OPENINGS):
            if shared is not None and not shared.closed:
                return shared
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open(begin))
            opening = self._opening
            try:
                shared = await asyncio.shield(opening)
            finally:
                if self._opening is opening and opening.done():
                    self._opening = None
        assert shared is not None
        return shared

    async def _open(self, begin: Begin) -> SharedUpstream:
        shared = await self.open_stream(partial(SharedUpstream, self._busy_poll))
        try:
            await begin(shared)
        except BaseException:  # closed meanwhile
            shared.close()
            raise
        self._shared = shared
        return shared

    async def open_stream(self, kind: Callable[[], S]) -> S:
        """See `Upstream`. Raises: UpstreamError with Redis's own text if the identity is refused."""
        unasked: list[Any] = []

        def begin() -> S:
            upstream = kind()
            unasked.clear()
            upstream.waiting.append(unasked.append)  # Redis may refuse the connection with an unsolicited reply
            return upstream

        async def prepare(upstream: S) -> None:
            if unasked and isinstance(unasked[0], hiredis.ReplyError):
                upstream.close()
                raise redis_error(unasked[0])
            upstream.waiting.clear()
            await _prepare(upstream, self.identity.handshake())

        connected: S = await self._opener.open(begin, prepare)
        return connected

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """See `Upstream`."""
        if self._shared is None:
            raise UpstreamLost("ERR upstream Redis is not connected")
        return self._shared.pipeline(commands)

    def dedicated(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """See `Upstream`."""
        return self._large.connection()

    def apart(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """See `Upstream`."""
        return self._apart.connection()

    @property
    def connection_counts(self) -> tuple[int, int]:
        """See `Upstream`."""
        return int(self.stream(b"") is not None), self._large.open_count + self._apart.open_count

    def abort(self) -> None:
        """See `Upstream`."""
        if self._shared is not None:
            self._shared.transport.abort()

    def close(self) -> None:
        """See `Upstream`."""
        if self._opening is not None:
            self._opening.cancel()
        if self._shared is not None:
            self._shared.close()
        self._large.close()
        self._apart.close()


async def _prepare(upstream: SharedUpstream, commands: Iterable[Sequence[Any]]) -> None:
    """Send the initial commands. A connection that is refused, or no longer wanted, is closed."""
    try:
        for argv in commands:
            await upstream.call(*argv)
        try:
            await upstream.call(b"CLIENT", b"SETNAME", upstream.client_name)
        except UpstreamError as error:  # the user may lack CLIENT; the name only helps in CLIENT LIST
            if isinstance(error, UpstreamLost | NoRoom):
                raise
    except BaseException:
        upstream.close()
        raise
