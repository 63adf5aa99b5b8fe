"""Detecting a hung Redis: its process is stopped, or its machine or the network is down.

A client may rightly wait for ever, for BLPOP or behind a long script, so a reply that does not come proves nothing.
While replies are outstanding, a PING on another connection asks whether Redis answers at all. A Redis that is busy with
a script says so (BUSY), one that loads its data too; one that gives no answer for `--upstream-timeout-ms` is hung, and
every connection to it is closed (docs/adr/0017). Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib

from redisai_py.errors import UpstreamError, UpstreamLost
from redisai_py.upstream.dialing import Dialer
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["Pulse"]

_BEATS = 5
"""In the time that Redis is given to answer, so often it is looked whether replies are outstanding."""


class Pulse:
    """Asks Redis for a sign of life, where somebody waits for it."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._timeout_s = dialer.settings.upstream_timeout_s
        self._upstream: SharedUpstream | None = None

    async def beat(self) -> None:
        """Until cancelled. A timeout of 0 is none."""
        owed = False
        try:
            while self._timeout_s:
                await asyncio.sleep(self._timeout_s / _BEATS)
                was_owed, owed = owed, self._dialer.owing
                if owed and was_owed and not await self._answers():
                    self._dialer.abandon(f"has not answered a PING for {self._timeout_s:g} s")
                    owed = False
        finally:
            self._drop()

    async def _answers(self) -> bool:
        """Whether Redis answers in time, on the connection kept for that or on a new one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        if self._upstream is None or self._upstream.closed:
                            self._upstream = await self._dialer.address.open(SharedUpstream)
                        await self._upstream.call(b"PING")
                    except UpstreamLost:  # its end says more: the connections that somebody waits for end as well
                        await asyncio.sleep(self._timeout_s / _BEATS)
                        if not self._dialer.owing:
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
