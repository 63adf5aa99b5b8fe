"""Delays before restarting a process. Pure: uptimes in, delays out."""

from __future__ import annotations

__all__ = ["Backoff"]


class Backoff:
    """No delay at first, up to 10 s for a process that keeps dying."""

    FIRST_S = 0.1
    LONGEST_S = 10.0
    STABLE_S = 30.0

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, uptime_s: float) -> float:
        """Seconds to wait after the process has died with this uptime."""
        if uptime_s >= self.STABLE_S:
            self._next_s = 0.0
        wait_s = self._next_s
        self._next_s = min(max(2 * wait_s, self.FIRST_S), self.LONGEST_S)
        return wait_s
