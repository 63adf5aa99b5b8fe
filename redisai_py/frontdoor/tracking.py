"""AI commands of clients that use CLIENT TRACKING.

Redis notifies a client on its own connection, but AI commands use connections that clients share. So for such a client:

- The keys that a command reads are first named to Redis on the client's own connection (EXISTS), as if they had been
  read there. That respects CLIENT CACHING, which concerns the next command.
- The reply of a command that may write waits for a PING on the client's own connection. Redis answers the PING after
  the invalidations that the write caused, so they reach the client before the reply, as with a plain SET.
- NOLOOP excludes a client's own writes: those are sent on its own connection.

Clients that do not track are unaffected: `Mode.TRACKED` is a state like MULTI. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

from redisai_py.commands import COMMANDS
from redisai_py.errors import RedisAIError, UpstreamLost
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.pending import Pending
from redisai_py.resp.reader import parse_reply
from redisai_py.store.store import Store
from redisai_py.upstream.access import Access
from redisai_py.upstream.shared import settle

__all__ = ["OwnAccess", "Tracking", "execute_tracked"]


@dataclass(frozen=True, slots=True)
class Tracking:
    """The options of CLIENT TRACKING ON.

    broadcast: for all keys, not only those read.   noloop: not for the client's own writes.   redirected: another
    connection is notified.
    """

    broadcast: bool
    noloop: bool
    redirected: bool

    @classmethod
    def from_words(cls, argv: Sequence[bytes]) -> Tracking | None:
        """Parse a CLIENT TRACKING that Redis accepted; None for OFF."""
        if argv[2].upper() != b"ON":
            return None
        options = iter(argv[3:])
        names = set()
        for option in options:
            names.add(option.upper())
            if option.upper() in (b"REDIRECT", b"PREFIX"):
                next(options)
        return cls(b"BCAST" in names, b"NOLOOP" in names, b"REDIRECT" in names)


class Tracked(Protocol):
    """A client that may track keys; see `Session`."""

    tracking: Tracking | None
    watches: bool

    @property
    def capture(self) -> Callable[[list[list[Any]]], Coroutine[Any, Any, list[bytes]]]:
        """Send commands on the client's own connection. Returns: their raw replies."""


async def execute_tracked(
    work: Coroutine[Any, Any, Any], argv: Sequence[Any], reads: Iterable[bytes], session: Tracked
) -> Any:
    """The outcome of an AI command, after Redis and the client have been told of its reads and writes.

    Args: work: executes it.   reads: keys read by a command that also writes.
    """
    tracking = session.tracking
    assert tracking is not None
    spec = COMMANDS[bytes(argv[0]).upper()]
    readonly = "readonly" in spec.flags
    try:
        keys = spec.keys(argv) if readonly else list(reads)
        if keys and not tracking.broadcast:
            await session.capture([[b"EXISTS", *keys]])  # a refusal is repeated when the key is read
    except BaseException:
        work.close()
        raise
    if readonly:
        return await work
    try:
        value = await work
    except UpstreamLost:
        raise
    except RedisAIError:  # some of it may have been written
        await _invalidations_received(session, tracking)
        raise
    await _invalidations_received(session, tracking)
    return value


async def _invalidations_received(session: Tracked, tracking: Tracking) -> None:
    """Wait until the client's own connection has received the invalidations of these writes."""
    await session.capture([[b"PING"]])
    if tracking.redirected:
        await asyncio.sleep(0)  # the other connection's data may be read later in the same iteration


class OwnAccess:
    """An identity's access through a client's own connection: replaces an `Access` in handlers.

    Only while the client itself watches no keys, because a transaction of ours would end that. In that case large
    values use a dedicated connection, and the client is notified of them.
    """

    near = None
    writer = None

    def __init__(self, session: Tracked, access: Access) -> None:
        self._session = session
        self._access = access
        self._queue: deque[tuple[list[list[Any]], list[Pending[Any]]]] = deque()
        self._sending = False
        tracking = session.tracking
        # In broadcast mode, Redis does not count a script's writes as its caller's.
        transactions = tracking is not None and tracking.broadcast and not session.watches
        self.store: Store = _TransactionStore(self) if transactions else Store(self)
        self.apart = access.apart
        self.forget = access.forget
        self.wrote = access.wrote
        self.scripting = access.scripting

    def as_access(self) -> Access:
        """For handlers, which use no more of an `Access` than this has."""
        return cast("Access", self)

    def dedicated(self) -> AbstractAsyncContextManager[Any]:
        """See `Link`: the client's own connection is one."""
        return self._access.dedicated() if self._session.watches else nullcontext(_Caller(self))

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """See `Link`."""
        if self._session.watches and not self.scripting:  # a write is a transaction
            return self._access.pipeline(commands)
        sent = [[b"%d" % word if isinstance(word, int) else word for word in command] for command in commands]
        pendings: list[Pending[Any]] = [Pending() for _ in sent]
        self._queue.append((sent, pendings))
        if not self._sending:
            self._sending = True
            run_eagerly(self._send(), lambda _, error: None)
        return pendings

    async def _send(self) -> None:
        """Send one pipeline after the other: a reply may make a handler send the next."""
        while self._queue:
            commands, pendings = self._queue.popleft()
            try:
                answers = await self._session.capture(commands)
            except RedisAIError as error:
                for pending in pendings:
                    pending.fail(error)
                continue
            for pending, raw in zip(pendings, answers, strict=True):
                settle(pending, parse_reply(raw))
        self._sending = False


class _Caller:
    """The client's own connection as a dedicated one."""

    def __init__(self, access: OwnAccess) -> None:
        self._access = access
        self.rehearsed = False

    def call(self, *argv: Any) -> Pending[Any]:
        """See `store.link.Caller`."""
        pending: Pending[Any] = self._access.pipeline([argv])[0]
        return pending


class _TransactionStore(Store):
    """Writes small tensors like large ones: in transactions, not in scripts."""

    async def _put_shared(self, write: Any) -> None:
        await self._put_watched(write)
