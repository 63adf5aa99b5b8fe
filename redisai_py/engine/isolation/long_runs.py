"""Notices long runs in engine processes, so that the threads that wait for them get successors.

One thread, which sleeps indefinitely while nothing runs. A run's start costs a look at a flag.
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
"""Checks in vain before it sleeps indefinitely, so that frequent runs need not wake it each time."""


class Waiting(Protocol):
    """One exchange with a process."""

    since: float
    thread_id: int
    reported: bool


class LongRuns:
    """Args: waiting: returns the exchanges in progress.   report: called once per long one, with its thread's id."""

    def __init__(self, waiting: Callable[[], Iterable[Waiting]], report: Callable[[int], object]) -> None:
        self.asleep = True
        """Whether callers that start an exchange must call `wake`."""
        self._waiting = waiting
        self._report = report
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
            # Clear the flag before looking: an exchange that begins in between is seen here, or wakes the thread.
            if not self._look():
                with self._condition:
                    if self.asleep and not self._stopping:
                        self._condition.wait()
            idle = 0

    def _look(self) -> bool:
        """Report long exchanges. Returns: whether there are any exchanges."""
        found = False
        long_before = time.monotonic() - LONG_S
        for each in self._waiting():
            found = True
            if each.since < long_before and not each.reported:
                each.reported = True
                self._report(each.thread_id)
        return found
