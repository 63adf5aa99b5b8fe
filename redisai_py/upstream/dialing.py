"""Opening connections to Redis: how long to retry, and the state of an unreachable Redis (docs/adr/0017).

A command that has not been sent can wait for Redis to come back. One probe checks for all waiting commands whether
Redis answers; so after a restart of Redis, ten thousand clients do not each try to connect every few milliseconds. What
has been sent is never sent again. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from redisai_py.errors import UpstreamError, UpstreamLost
from redisai_py.upstream.address import Address
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["FIRST_PROBE_S", "Dialer", "Opener", "UpstreamSettings"]

FIRST_PROBE_S = 0.02
LONGEST_PAUSE_S = 0.25
PROBE_TIMEOUT_S = 2.0
_KEEPALIVE_PROBES = 3

logger = structlog.get_logger()


Factory = Callable[[], asyncio.BaseProtocol]
Prepare = Callable[[Any], Awaitable[None]]


class Opener(Protocol):
    """Opens connections to Redis."""

    async def open(self, factory: Factory, prepare: Prepare | None = None) -> Any:
        """A connected protocol, on which `prepare` has sent the initial commands. Called by a Task.

        Raises: UpstreamLost: Redis is unreachable.   UpstreamError: Redis refused, with its own text.
        """


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """upstream_retry_s: how long an unsent command may wait for Redis.   upstream_timeout_s: time for Redis to answer a
    PING before it counts as hung.   upstream_keepalive_s: TCP keepalive on idle connections; 0 is none.
    """

    upstream_retry_s: float = 0.0
    upstream_timeout_s: float = 10.0
    upstream_keepalive_s: int = 0


class Dialer:
    """Opens connections to one address."""

    def __init__(self, address: Address, settings: UpstreamSettings) -> None:
        self.address = address
        self.settings = settings
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()
        self._probing: asyncio.Task[None] | None = None
        self._why = ""

    @property
    def awaits_reply(self) -> bool:
        """Whether a reply is outstanding on any connection."""
        return any(upstream.awaits_reply for upstream in self._live if not upstream.closed)

    async def open(self, factory: Factory, prepare: Prepare | None = None) -> Any:
        """See `Opener`; retries until `upstream_retry_s` have passed."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self.settings.upstream_retry_s
        while True:
            if self._probing is not None and self.settings.upstream_retry_s:
                await asyncio.wait({self._probing}, timeout=max(0.0, give_up_at - clock()))
                if self._probing is not None:
                    raise UpstreamLost(self._why)
            try:
                return await self.open_once(factory, prepare)
            except UpstreamLost as error:
                self._away(str(error), "Redis cannot be reached")
                if clock() >= give_up_at:
                    raise

    async def open_once(self, factory: Factory, prepare: Prepare | None = None) -> Any:
        """The same, with a single attempt."""
        upstream = await self.address.open(factory, timeout_s=self.settings.upstream_timeout_s)
        self._live.add(upstream)
        if self.settings.upstream_keepalive_s and self.address.path is None:
            _keep_alive(upstream.transport.get_extra_info("socket"), self.settings.upstream_keepalive_s)
        if prepare is not None:
            await prepare(upstream)
        return upstream

    @property
    def single_attempt(self) -> Opener:
        """The same, with a single attempt per connection, whatever is known of Redis."""
        return _SingleAttempt(self)

    def abandon(self, why: str) -> None:
        """Redis hangs: close every connection to it, and open none until it answers again."""
        self._away(f"ERR upstream Redis at {self.address} {why}", "Redis hangs; closing all connections to it")
        for upstream in list(self._live):
            if not upstream.closed and upstream.transport is not None:
                upstream.transport.abort()

    def _away(self, why: str, event: str) -> None:
        self._why = why
        if self._probing is None:
            logger.error(event, redis=str(self.address), reason=why.removeprefix("ERR "))
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Probe until Redis answers."""
        clock = asyncio.get_running_loop().time
        since, pause_s = clock(), FIRST_PROBE_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                if await self.answers(min(PROBE_TIMEOUT_S, self.settings.upstream_timeout_s)):
                    break
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            logger.info("Redis answers again", redis=str(self.address), after_s=round(clock() - since, 2))
        finally:
            self._probing = None

    async def answers(self, timeout_s: float) -> bool:
        """Whether Redis answers a PING on a new connection, with any reply."""
        probe = SharedUpstream()
        try:
            async with asyncio.timeout(timeout_s):
                await self.address.open(lambda: probe)
                await probe.call(b"PING")
        except (UpstreamLost, TimeoutError):
            return False
        except UpstreamError:  # LOADING, BUSY, NOAUTH, max number of clients
            return True
        finally:
            if probe.transport is not None:
                probe.transport.abort()
        return True

    async def close(self) -> None:
        """End the probe; waiting commands fail."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing


class _SingleAttempt:
    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def open(self, factory: Factory, prepare: Prepare | None = None) -> Any:
        return await self._dialer.open_once(factory, prepare)

    def __str__(self) -> str:
        return str(self._dialer.address)


def _keep_alive(connection: socket.socket, idle_s: int) -> None:
    """Let the system detect a lost peer: on an idle connection, and if sent data is never acknowledged. The intervals
    are those of Redis's own `tcp-keepalive`.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", idle_s),
        ("TCP_KEEPINTVL", max(1, idle_s // _KEEPALIVE_PROBES)),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", 2000 * idle_s),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
