"""What one identity uses to reach Redis: its shared stream, its dedicated connections, and its store.

Clients with the same credentials and database share one `Access`; it exists while any of them does. Who may have
which is not decided here: a client gets one only after Redis accepted its credentials on the client's own connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import hiredis

from redisai_py.errors import Busy, NoRoom, UpstreamError, UpstreamLost
from redisai_py.pending import Pending
from redisai_py.resp.redis_errors import redis_error
from redisai_py.store.bulk import GroupSets
from redisai_py.store.cache import NearCache
from redisai_py.store.lua import PROBE
from redisai_py.store.predictions import PredictionShelf
from redisai_py.store.set_stream import SetStream
from redisai_py.store.store import Store
from redisai_py.store.writer import CallLater, Writer
from redisai_py.upstream.address import Identity
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.dialing import Opener
from redisai_py.upstream.large import LargeUpstream
from redisai_py.upstream.pool import Pool
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["Access", "AccessTable"]

S = TypeVar("S", bound=SharedUpstream)
_MOST_OPENINGS = 5
"""A connection may be lost before those that wait for it come to know that it is open."""


class Access:
    """One identity's connections; a `Link` for its store. call_later: see `Writer`."""

    def __init__(
        self,
        opener: Opener,
        identity: Identity,
        pool_size: int,
        near_bytes: int = 0,
        call_later: CallLater | None = None,
        busy_poll: BusyPoll | None = None,
    ) -> None:
        self.identity = identity
        self.clients = 0
        self.scripting = True
        self.store = Store(self)
        self.predictions = PredictionShelf(self)
        self.shared: SharedUpstream | None = None
        self.near: NearCache | None = None
        """Set where Redis allows scripts, which is what proves that near values still hold."""
        self.writer: Writer | None = None
        """Set where Redis allows scripts."""
        self.groups = GroupSets(
            lambda: _connect_shared(opener, identity, partial(SetStream, busy_poll)), lambda: self.near
        )
        self._near_bytes = near_bytes
        self._call_later = call_later
        self._busy_poll = busy_poll
        self._opener = opener
        self._opening: asyncio.Task[SharedUpstream] | None = None
        self._loading: Pending[Any] | None = None
        self._large = Pool(opener, identity, pool_size)
        self._apart = Pool(opener, identity, pool_size, bounded=False)

    async def ensure(self) -> SharedUpstream:
        """The shared stream, opened if need be; single-flight. Raises UpstreamError."""
        shared = self.shared
        for _ in range(_MOST_OPENINGS):
            if shared is not None and not shared.closed:
                return shared
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._connect())
            opening = self._opening
            try:
                shared = await asyncio.shield(opening)
            finally:
                if self._opening is opening and opening.done():
                    self._opening = None
        assert shared is not None
        return shared

    async def _connect(self) -> SharedUpstream:
        shared = await _connect_shared(self._opener, self.identity, partial(SharedUpstream, self._busy_poll))
        try:
            self.scripting = all([await _succeeds(shared.call(*command)) for command in PROBE])
        except BaseException:  # closed meanwhile
            shared.close()
            raise
        self.near = NearCache(self._near_bytes) if self._near_bytes and self.scripting else None
        call_later = self._call_later or asyncio.get_running_loop().call_soon
        self.writer = Writer(self.near, shared, call_later) if self.scripting else None
        self.shared = shared
        return shared

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send commands on the shared stream in one write; the caller has awaited `ensure`."""
        if self.shared is None:
            raise UpstreamLost("ERR upstream Redis is not connected")
        return self.shared.pipeline(commands)

    def load_script(self) -> None:
        """Redis forgot the script: give it back, once for all commands that miss it at the same time."""
        if self.shared is not None and (self._loading is None or self._loading.done):
            self._loading = self.shared.pipeline(PROBE)[-1]

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

    @property
    def dedicated_count(self) -> int:
        """Dedicated connections open now."""
        return self._large.open_count + self._apart.open_count + self.groups.is_open

    def dedicated(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """A connection to oneself, from a bounded pool, for what goes on without waiting for anybody but Redis; after
        an error it is closed, since its state is not known.
        """
        return self._large.connection()

    def apart(self) -> AbstractAsyncContextManager[LargeUpstream]:
        """A connection to oneself for as long as others take: a client that sends or reads something large, or models
        that run while keys are under WATCH.

        It comes from a pool of its own, and one that has as many as are asked for, at most one for each client: those
        who had to wait for one would wait for the slowest client, or miss the batch for which the others wait.
        """
        return self._apart.connection()

    def close(self) -> None:
        """Close every connection that is not in use; those in use are closed when given back."""
        if self._opening is not None:
            self._opening.cancel()
        if self.shared is not None:
            self.shared.close()
        self.groups.close()
        self._large.close()
        self._apart.close()


async def _connect_shared(opener: Opener, identity: Identity, kind: Callable[[], S]) -> S:
    """A shared connection that has the identity. Raises: UpstreamError with Redis's own text if that is refused."""
    unasked: list[Any] = []

    def begin() -> S:
        upstream = kind()
        unasked.clear()
        upstream.waiting.append(unasked.append)  # Redis may refuse the connection, which it says unasked
        return upstream

    async def prepare(upstream: S) -> None:
        if unasked and isinstance(unasked[0], hiredis.ReplyError):
            upstream.close()
            raise redis_error(unasked[0])
        upstream.waiting.clear()
        await _prepare(upstream, identity.handshake())

    connected: S = await opener.open(begin, prepare)
    return connected


async def _prepare(upstream: SharedUpstream, commands: Iterable[Sequence[Any]]) -> None:
    """Send what a fresh connection begins with. A connection that is refused, or no longer wanted, is closed."""
    try:
        for argv in commands:
            await upstream.call(*argv)
        try:
            await upstream.call(b"CLIENT", b"SETNAME", upstream.client_name)
        except UpstreamError as error:  # CLIENT may be withheld; the name only helps in CLIENT LIST
            if isinstance(error, UpstreamLost | NoRoom):
                raise
    except BaseException:
        upstream.close()
        raise


async def _succeeds(reply: Pending[Any]) -> bool:
    """Whether Redis allows it. Raises UpstreamError if it cannot tell now: that must not count for ever."""
    try:
        await reply
    except UpstreamError as error:
        if isinstance(error, UpstreamLost | Busy):
            raise
        return False
    return True


class AccessTable:
    """The identities in use, each with one Access while it has clients."""

    def __init__(
        self, opener: Opener, pool_size: int, near_bytes: int, call_later: CallLater, busy_poll: BusyPoll | None
    ) -> None:
        self._opener = opener
        self._settings = (pool_size, near_bytes, call_later, busy_poll)
        self._by_identity: dict[Identity, Access] = {}

    def acquire(self, identity: Identity) -> Access:
        """The identity's Access, counted up by one client."""
        access = self._by_identity.get(identity)
        if access is None:
            access = self._by_identity[identity] = Access(self._opener, identity, *self._settings)
        access.clients += 1
        return access

    def release(self, access: Access) -> None:
        """Counterpart of `acquire`; the last client's leaving closes the connections."""
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
        """How many shared and how many dedicated connections are open."""
        accesses = list(self._by_identity.values())
        shared = sum(access.shared is not None and not access.shared.closed for access in accesses)
        return shared, sum(access.dedicated_count for access in accesses)

    def close(self) -> None:
        """Close all connections, at the server's end."""
        for access in self._by_identity.values():
            access.close()
        self._by_identity.clear()
