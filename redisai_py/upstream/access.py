"""Everything one identity uses: its connections to Redis, and its caches and writers.

Clients with the same credentials and database share one `Access`, which exists as long as any of them. Authorisation
happens elsewhere: a client gets an Access only after Redis has accepted its credentials on the client's own connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from redisai_py.errors import Busy, UpstreamError, UpstreamLost
from redisai_py.pending import Pending
from redisai_py.store.bulk import GroupSets
from redisai_py.store.cache import NearCache
from redisai_py.store.lua import PROBE
from redisai_py.store.predictions import StoredPredictions
from redisai_py.store.set_stream import SetStream
from redisai_py.store.store import Store
from redisai_py.store.writer import CallLater, Writer
from redisai_py.upstream.address import Identity
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.interface import Stream, Upstream

__all__ = ["Access", "AccessTable"]


class Access:
    """An identity's `Upstream`, and a `Link` for its store. near_cache_bytes: 0 for no near cache.   call_later: see
    `Writer`.
    """

    def __init__(
        self,
        upstream: Upstream,
        near_cache_bytes: int = 0,
        call_later: CallLater | None = None,
        busy_poll: BusyPoll | None = None,
    ) -> None:
        self.upstream = upstream
        self.identity = upstream.identity
        self.owner = (*self.identity.owner, self.identity.database)
        """The identity again; as a tuple it is a fast dictionary key."""
        self.clients = 0
        self.scripting = True
        self.stream = upstream.stream
        self.pipeline = upstream.pipeline
        self.dedicated = upstream.dedicated
        self.apart = upstream.apart
        self.store = Store(self)
        self.predictions = StoredPredictions(self)
        self.near: NearCache | None = None
        """Set if Redis allows scripts, which check that cached values are still current."""
        self.writer: Writer | None = None
        """Set if Redis allows scripts."""
        self.groups = GroupSets(lambda: upstream.open_stream(partial(SetStream, busy_poll)), lambda: self.near)
        self._near_cache_bytes = near_cache_bytes
        self._call_later = call_later
        self._loading: Pending[Any] | None = None

    async def ensure(self) -> Stream:
        """The shared stream, opened if necessary. Raises UpstreamError."""
        return await self.upstream.ensure(self._begin)

    async def _begin(self, stream: Stream) -> None:
        """Find out what Redis allows, and forget what was known from an earlier stream."""
        self.scripting = all([await _succeeds(stream.call(*command)) for command in PROBE])
        self.near = NearCache(self._near_cache_bytes) if self._near_cache_bytes and self.scripting else None
        call_soon = asyncio.get_running_loop().call_soon
        self.writer = Writer(self.near, stream, self._call_later or call_soon, call_soon) if self.scripting else None

    def load_script(self, key: bytes) -> None:
        """Redis has lost the script: load it again on the server of `key`, once for all commands that fail at the same
        time.
        """
        stream = self.stream(key)
        if stream is not None and (self._loading is None or self._loading.done):
            self._loading = stream.pipeline(PROBE)[-1]

    def forget(self, keys: Iterable[bytes]) -> None:
        """See `Link`."""
        if self.near is not None:
            for key in keys:
                self.near.drop(key)

    def wrote(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """See `Link`."""
        if self.near is not None:
            for key, raw in items:
                self.near.put(key, raw)

    def close(self) -> None:
        """Close every unused connection; those in use are closed when released."""
        self.upstream.close()
        self.groups.close()


async def _succeeds(reply: Pending[Any]) -> bool:
    """Whether Redis allows it. Raises UpstreamError if Redis cannot tell now, which must not count forever."""
    try:
        await reply
    except UpstreamError as error:
        if isinstance(error, UpstreamLost | Busy):
            raise
        return False
    return True


class AccessTable:
    """The identities in use, each with one Access while it has clients. connect: returns an identity's `Upstream`."""

    def __init__(
        self,
        connect: Callable[[Identity], Upstream],
        near_cache_bytes: int,
        call_later: CallLater,
        busy_poll: BusyPoll | None,
    ) -> None:
        self._connect = connect
        self._settings = (near_cache_bytes, call_later, busy_poll)
        self._by_identity: dict[Identity, Access] = {}

    def acquire(self, identity: Identity) -> Access:
        """The identity's Access, with one more client."""
        access = self._by_identity.get(identity)
        if access is None:
            access = self._by_identity[identity] = Access(self._connect(identity), *self._settings)
        access.clients += 1
        return access

    def release(self, access: Access) -> None:
        """Counterpart of `acquire`; when the last client leaves, the connections are closed."""
        access.clients -= 1
        if access.clients == 0:
            self._by_identity.pop(access.identity, None)
            access.close()

    @contextmanager
    def held(self, identity: Identity) -> Iterator[Access]:
        """The identity's Access for work that may outlast its client."""
        access = self.acquire(identity)
        try:
            yield access
        finally:
            self.release(access)

    def all(self) -> list[Access]:
        """All of them."""
        return list(self._by_identity.values())

    def connection_counts(self) -> tuple[int, int]:
        """Number of open shared and dedicated connections."""
        accesses = self.all()
        counts = [access.upstream.connection_counts for access in accesses]
        groups = sum(access.groups.is_open for access in accesses)
        return sum(shared for shared, _ in counts), sum(dedicated for _, dedicated in counts) + groups

    def close(self) -> None:
        """Close all connections when the server stops."""
        for access in self._by_identity.values():
            access.close()
        self._by_identity.clear()
