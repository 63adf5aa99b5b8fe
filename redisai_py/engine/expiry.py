"""TIMEOUT: one timer of the event loop for the earliest deadline, whatever the number of runs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

__all__ = ["Expiry"]


class Expiry:
    """Args: expire: ends the runs with deadlines up to this time; returns the next deadline, or infinity."""

    __slots__ = ("_at", "_expire", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float]) -> None:
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def by(self, deadline: float) -> None:
        """Make sure that runs with this deadline are handled when it passes. deadline: monotonic seconds."""
        if deadline < self._at:
            self.stop()
            self._at = deadline
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._look)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self._at = math.inf
        self.by(self._expire(time.monotonic()))
