"""Stops runs that exceed MODEL_EXECUTION_TIMEOUT; a merged run has the time of all its members.

DESIGN. One thread watches all slots. It sleeps until the oldest run would be overdue, and without limit while nothing
runs: then the next start of a run wakes it. While it is awake or has a wake-up time, a start costs one look at a flag,
because no later run can be overdue before that time. It has its own thread because the event loop runs models too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from redisai_py.engine.execution import Execution, Slot
from redisai_py.errors import RunTimeout

__all__ = ["Watchdog"]

STOP_GRACE_S = 2.0
"""Seconds for a run that was told to stop to end."""
_LONGEST_SLEEP_S = 3600.0
"""The limit may be any number, but the system cannot wait for centuries; a useless wake-up costs nothing."""


class Watchdog:
    """Args: limit_ms: 0 is none.   slots: returns all current slots.   overdue: gets a stopped Execution, on this
    thread.
    lost: gets the slot and the Execution that continues two seconds after it was told to stop, once, on this thread.
    """

    def __init__(
        self,
        limit_ms: int,
        slots: Callable[[], Iterable[Slot]],
        overdue: Callable[[Execution], object],
        lost: Callable[[tuple[Slot, Execution]], object] = lambda lost: None,
    ) -> None:
        self.limit_ms = limit_ms
        """MODEL_EXECUTION_TIMEOUT in milliseconds, 0 is none."""
        self._slots = slots
        self._overdue = overdue
        self._lost = lost
        self._condition = threading.Condition()
        self._stopping = False
        self.awake = not limit_ms
        """Whether no start of a run need wake it; see `Watch`."""
        self.thread: threading.Thread | None = None

    def set_limit(self, limit_ms: int) -> None:
        """Change the limit, also for running executions."""
        self.limit_ms = limit_ms
        if limit_ms or self.thread is not None:
            self.wake()

    def stop(self) -> None:
        """End the thread, and wait for its end."""
        with self._condition:
            self._stopping = self.awake = True
            self._condition.notify()
        if self.thread is not None:
            self.thread.join()

    def wake(self) -> None:
        """Look at the slots: a run has started, or the limit has changed. Thread: any."""
        with self._condition:
            self.awake = True
            if self.thread is None and not self._stopping:
                self.thread = threading.Thread(target=self._work, name="redisai watchdog", daemon=True)
                self.thread.start()
            self._condition.notify()

    def _work(self) -> None:
        while True:
            # Clear the flag before looking: a run that starts in between either is seen here, or sees the flag.
            self.awake = False
            wait_s = self._check()
            with self._condition:
                if self._stopping:
                    return
                if self.awake:  # a run has started or the limit has changed: look again
                    continue
                # Without a limit, or while it has a wake-up time, no start of a run need wake it.
                self.awake = wait_s is not None or not self.limit_ms
                self._condition.wait(wait_s)

    def _check(self) -> float | None:
        """Stop overdue runs. Returns: seconds until the next run is overdue, or None if nothing is running."""
        limit_ms = self.limit_ms
        if not limit_ms:
            return None
        now = time.monotonic()
        wait_s: float | None = None
        for slot in self._slots():
            stopped = slot.interrupt(now, limit_ms / 1000, lambda stops: _overdue_error(limit_ms, stops))
            if stopped is not None and stopped.stop is not None and not stopped.stop.repeats:
                self._overdue(stopped)
            running = slot.current
            if running is None:
                continue
            stop = running.stop
            if stop is None:
                left = running.started + limit_ms / 1000 + running.extra_s(limit_ms / 1000) - now
            elif stop.reported:
                continue
            else:
                left = stop.at + STOP_GRACE_S - now
                if left <= 0:
                    stop.reported = True
                    self._lost((slot, running))
                    continue
            wait_s = left if wait_s is None else min(wait_s, left)
        return wait_s if wait_s is None else min(max(wait_s, 0.0), _LONGEST_SLEEP_S)


def _overdue_error(limit_ms: int, stops: bool) -> RunTimeout:
    # The text after the colon is ONNX Runtime's own for a stopped run.
    how = "Exiting due to terminate flag being set to true" if stops else "the framework cannot stop, and computes on"
    return RunTimeout(f"ERR MODEL_EXECUTION_TIMEOUT of {limit_ms} ms passed: {how}")
