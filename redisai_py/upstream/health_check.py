"""Detecting a hung Redis: its process is stopped, or its machine or the network is down.

A client may legitimately wait forever, for BLPOP or a long script, so a missing reply proves nothing. While replies are
outstanding, a PING on another connection checks whether Redis answers at all. A Redis that is busy with a script
answers BUSY, one that loads its data LOADING. If there is no answer for `--upstream-timeout-ms`, Redis is hung, and
every connection to it is closed (docs/adr/0017). Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib

from redisai_py.errors import UpstreamError, UpstreamLost
from redisai_py.upstream.dialing import Dialer
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["HealthCheck"]

_CHECKS = 5
"""Checks for outstanding replies per timeout."""


class HealthCheck:
    """Sends PINGs to Redis while somebody waits for it."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._timeout_s = dialer.settings.upstream_timeout_s
        self._upstream: SharedUpstream | None = None

    async def run(self) -> None:
        """Run until cancelled. A timeout of 0 disables it."""
        owed = False
        try:
            while self._timeout_s:
                await asyncio.sleep(self._timeout_s / _CHECKS)
                was_owed, owed = owed, self._dialer.awaits_reply
                if owed and was_owed and not await self._answers():
                    self._dialer.abandon(f"has not answered a PING for {self._timeout_s:g} s")
                    owed = False
        finally:
            self._drop()

    async def _answers(self) -> bool:
        """Whether Redis answers in time, on the kept connection or a new one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        if self._upstream is None or self._upstream.closed:
                            self._upstream = await self._dialer.address.open(SharedUpstream)
                        await self._upstream.call(b"PING")
                    except UpstreamLost:  # the connections with waiting clients have ended, too, which says more
                        await asyncio.sleep(self._timeout_s / _CHECKS)
                        if not self._dialer.awaits_reply:
                            return True
                        continue
                    except UpstreamError:
                        pass  # an answer
                    return True
        self._drop()
        return False

    def _drop(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None and upstream.transport is not None:
            upstream.transport.abort()
