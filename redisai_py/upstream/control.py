"""The server's own connection to Redis: for preloading, detecting deleted models, and checking that Redis answers.

Rules: the credentials of the URL are used here and nowhere else. A client brings its own, and everything done for a
client runs as that client. Without credentials, but with a Redis that requires some, the server can still check whether
Redis answers; it cannot preload.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from redisai_py.errors import Loading, UpstreamError, UpstreamLost
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity
from redisai_py.upstream.dialing import Opener
from redisai_py.upstream.single import SingleServer

__all__ = ["Control", "own_identity"]

PING_TIMEOUT_S = 2.0
_CONNECTIONS = 2


def own_identity(url: str) -> Identity:
    """The server's own identity: the user and password of the URL, database 0."""
    parts = urlsplit(url)
    if parts.password is None:
        return Identity()
    return Identity(unquote(parts.username or "default").encode(), unquote(parts.password).encode())


class Control:
    """Connections with the server's own identity, opened when first needed. Thread: the event loop's."""

    def __init__(self, opener: Opener, identity: Identity) -> None:
        self._opener = opener
        self._identity = identity
        self._accesses: dict[int, Access] = {}

    async def access(self, database: int = 0) -> Access:
        """Connected access to a database. Called by a Task. Raises UpstreamError."""
        access = self._access(database)
        await self._ensure(access)
        return access

    def _access(self, database: int) -> Access:
        access = self._accesses.get(database)
        if access is None:
            identity = replace(self._identity, database=database)
            access = Access(SingleServer(self._opener, identity, upstream_pool=_CONNECTIONS))
            access.clients = 1  # the server itself, which keeps its connections open
            self._accesses[database] = access
        return access

    async def _ensure(self, access: Access) -> None:
        try:
            await access.ensure()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this task was cancelled, but the connection it waited for: another caller has given it up.
            raise UpstreamLost(f"ERR upstream Redis at {self._opener} does not answer") from None

    async def ping(self) -> float:
        """Round-trip time of a PING in seconds.

        Raises: UpstreamError if Redis is unreachable, does not answer within 2 s, or cannot be used yet.
        """
        since = time.monotonic()
        access = self._access(0)
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._ensure(access)
                (pong,) = access.pipeline([(b"PING",)])
                await pong
        except TimeoutError:
            self._give_up(access)
            raise UpstreamLost(
                f"ERR upstream Redis at {self._opener} does not answer within {PING_TIMEOUT_S:g} s"
            ) from None
        except UpstreamError as error:
            if isinstance(error, UpstreamLost | Loading):  # any other error is an answer
                raise
        return time.monotonic() - since

    def _give_up(self, access: Access) -> None:
        """Drop a connection that hangs, or hangs while opening; the next use opens another."""
        if self._accesses.get(0) is access:  # otherwise a concurrent caller was faster
            del self._accesses[0]
        access.upstream.abort()
        access.close()

    def close(self) -> None:
        """Close all connections."""
        for access in self._accesses.values():
            access.close()
        self._accesses.clear()
