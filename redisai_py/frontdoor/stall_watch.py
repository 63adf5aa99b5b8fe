"""Detecting clients that stop in the middle of a large upload. Thread: the event loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["StallWatch"]


class StallWatch:
    """Calls `stalled`, once, if no byte arrives for `timeout_s`. Time in which the server does not read from the client
    does not count, because Redis may be the slow side.

    Args: timeout_s: 0 for no limit.   reading: returns whether the client is being read from.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        reading: Callable[[], bool],
        stalled: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._reading = reading
        self._stalled = stalled
        self._last = loop.time()
        self._timer = loop.call_later(timeout_s, self._look) if timeout_s else None

    def moved(self) -> None:
        """Bytes have arrived."""
        self._last = self._loop.time()

    def cancel(self) -> None:
        """Everything has arrived, or the client has left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if not self._reading():
            self.moved()
        left_s = self._last + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._timer = None
            self._stalled()
