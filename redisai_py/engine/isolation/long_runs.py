"""Notices runs that take long in engine processes, so that the threads that wait for them get successors.

One thread, which sleeps for good while nothing runs. A run's start costs a look at a flag.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["LongRuns", "Waiting"]

LONG_S = 0.1
_LOOK_S = 0.05
_IDLE_LOOKS = 20
"""Looks in vain before it sleeps for good: runs that come again and again need not wake it each time."""


class Waiting(Protocol):
    """One exchange with a process."""

    since: float
    thread_id: int
    told: bool


class LongRuns:
    """Args: waiting: the exchanges under way.   tell: called once for each long one, with the waiting thread's id."""

    def __init__(self, waiting: Callable[[], Iterable[Waiting]], tell: Callable[[int], object]) -> None:
        self.asleep = True
        """Whoever starts an exchange calls `wake` then."""
        self._waiting = waiting
        self._tell = tell
        self._condition = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """An exchange begins. Thread: any."""
        with self._condition:
            self.asleep = False
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._work, name="redisai long runs", daemon=True)
                self._thread.start()
            self._condition.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def _work(self) -> None:
        idle = 0
        while not self._stopping:
            idle = 0 if self._look() else idle + 1
            with self._condition:
                if idle < _IDLE_LOOKS:
                    self._condition.wait(_LOOK_S)
                    continue
                self.asleep = True
            # First the flag, then the look: an exchange that begins in between is seen here or wakes.
            if not self._look():
                with self._condition:
                    if self.asleep and not self._stopping:
                        self._condition.wait()
            idle = 0

    def _look(self) -> bool:
        """Tell of the long ones; whether there is any exchange."""
        found = False
        long_before = time.monotonic() - LONG_S
        for each in self._waiting():
            found = True
            if each.since < long_before and not each.told:
                each.told = True
                self._tell(each.thread_id)
        return found
