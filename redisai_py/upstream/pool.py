"""A pool of connections that have one user at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redisai_py.pending import Pending
from redisai_py.upstream.address import Identity
from redisai_py.upstream.dialing import Opener
from redisai_py.upstream.large import LargeUpstream

__all__ = ["Pool"]


class Pool:
    """Connections with one user at a time each, opened when first needed: at most `size`, or, if unbounded, as many as
    requested, of which `size` are kept.
    """

    def __init__(self, opener: Opener, identity: Identity, size: int, *, bounded: bool = True) -> None:
        self.open_count = 0
        self._opener = opener
        self._identity = identity
        self._size = size
        self._bounded = bounded
        self._closed = False
        self._idle: list[LargeUpstream] = []
        self._waiters: deque[Pending[None]] = deque()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[LargeUpstream]:
        """A connection for the `with` block; it is closed if the block raises."""
        connection = await self._take()
        clean = False
        try:
            yield connection
            clean = True
        finally:
            self._give_back(connection, clean)

    async def _take(self) -> LargeUpstream:
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
                self.open_count -= 1
            if self.open_count < self._size or not self._bounded:
                break
            waiter: Pending[None] = Pending()
            self._waiters.append(waiter)
            await waiter
        self.open_count += 1
        try:
            # In its own task: the connection timeout needs one, and handlers do not run in tasks.
            return await asyncio.get_running_loop().create_task(self._connect())
        except BaseException:
            self.open_count -= 1
            self._wake()
            raise

    async def _connect(self) -> LargeUpstream:
        connection: LargeUpstream = await self._opener.open(LargeUpstream, self._prepare)
        return connection

    async def _prepare(self, connection: LargeUpstream) -> None:
        try:
            for argv in self._identity.handshake():
                await connection.call(*argv)
        except BaseException:
            connection.close()
            raise

    def _give_back(self, connection: LargeUpstream, clean: bool) -> None:
        if clean and not connection.closed and not self._closed and len(self._idle) < self._size:
            self._idle.append(connection)
        else:
            connection.close()
            self.open_count -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done:
                waiter.resolve(None)
                return

    def close(self) -> None:
        """Close idle connections now, and the others when they are released."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self.open_count -= len(self._idle)
        self._idle.clear()
