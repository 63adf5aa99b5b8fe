"""A device's worker threads, and the models whose runs they execute.

DESIGN. Every device string has one DeviceQueue. Handing over runs is an append to its inbox and a wake-up: it wakes a
sleeping thread; a thread that is awake looks at the inbox before it sleeps; the event loop takes no lock. Under the
lock, a thread moves the inbox to the models' own queues and picks the next batch. Models with waiting runs are in a
ring and take turns, so a busy model does not starve the others. A model that already runs on its maximum of threads is
skipped: one, unless its session says `concurrent` and keeps no state, otherwise `threads_per_model`. A thread that
leaves work behind wakes another one (docs/adr/0033-one-model-on-several-threads.md).

Invariants, under the lock: a waiting run is in the inbox or in its model's queue, so whoever has the lock can find it,
for example to end it when its TIMEOUT passes; a model is in the ring if and only if its queue holds runs. A thread
sleeps exactly until the next held batch is due, or until it is woken. The work for a wake-up is in the inbox before the
wake-up is sent, so wake-ups are consumed before the inbox is read.

A sleeping thread must hold no reference to a model (see `registry`). That is why its work is divided into functions
whose variables go out of scope.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from redisai_py.backend import Session
from redisai_py.engine.execution import Execution, Slot, Watch, execute
from redisai_py.engine.proving import prove
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.run import Run
from redisai_py.machine import lower_priority

__all__ = ["DeviceQueue", "HandOver", "close_session"]

HandOver = tuple[QueuedModel, list[Run]]
"""Runs of one model."""
_Batch = tuple[QueuedModel, list[Run], bool]
"""bool: its merging must be proved."""

_LONGEST_SLEEP_S = 3600.0
"""MINBATCHTIMEOUT may be any number, but the system cannot wait for centuries; a useless wake-up costs nothing."""

_MOST_LENT = 32

logger = structlog.get_logger()


class DeviceQueue:
    """The run queue of one device.

    Args: name: upper-cased device string.   threads: number of workers, >= 1.
          threads_per_model: on how many of them one model may run at once, >= 1.
          report: gets every Execution.   expired: gets a model and its runs whose TIMEOUT passed. Both are called on
          worker threads.
          watchdog: see Slot.   stopped: called by each thread as its last act.
          nice: see `lower_priority`.
    Raises: RuntimeError: the threads cannot be started.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        threads_per_model: int,
        report: Callable[[Execution], object],
        expired: Callable[[HandOver], object],
        watchdog: Watch,
        stopped: Callable[[], object],
        nice: int = 0,
    ) -> None:
        self.name = name
        self.threads_per_model = threads_per_model
        self._report = report
        self._expired = expired
        self._stopped = stopped
        self._nice = nice
        self._inbox: deque[HandOver | Session] = deque()
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ring: deque[QueuedModel] = deque()
        self._to_close: list[Session] = []
        self._stopping = False
        self._watchdog = watchdog
        self.slots = [Slot(watchdog) for _ in range(threads)]
        self.lent: list[Slot] = []
        """Slots of threads that have a successor and end with their batch."""
        self.threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"redisai {name} {i}", daemon=True)
            for i, slot in enumerate(self.slots, 1)
        ]
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError:  # the system gives no more: the started threads end, and are not counted
            self._stopped = lambda: None
            self.stop()
            raise

    # -- event loop's side ---------------------------------------------------------------------------------------------

    def submit(self, loaded: QueuedModel, runs: list[Run]) -> None:
        """Hand over runs of one model, in order. Thread: the event loop's."""
        self._inbox.append((loaded, runs))
        self._wake_ups.put(None)

    def drop(self, loaded: QueuedModel, run: Run) -> bool:
        """Remove a run; False if it has started, or a worker has found its deadline passed and will report it."""
        with self._lock:
            if run.started or run.dropped:
                return False
            run.dropped = True  # it may still be in the inbox
            if loaded.queue.drop(run):
                self._leave_ring_if_empty(loaded)
            return True

    def expire(self, now: float) -> tuple[list[HandOver], float]:
        """Remove the runs whose deadline has passed. Returns: them, and the next deadline, or infinity."""
        expired: list[HandOver] = []
        next_deadline = math.inf
        with self._lock:
            if self._empty_inbox():
                self._wake_ups.put(None)  # the consumed one may have been meant for another thread
            for loaded in list(self._ring):
                if runs := loaded.queue.expire(now):
                    expired.append((loaded, _dropped(runs)))
                next_deadline = min(next_deadline, loaded.queue.next_deadline)
                self._leave_ring_if_empty(loaded)
        return expired, next_deadline

    def abandon(self) -> list[HandOver]:
        """Remove all waiting runs."""
        with self._lock:
            self._empty_inbox()
            waiting = [(loaded, _dropped(loaded.queue.clear())) for loaded in self._ring]
            for loaded in self._ring:
                loaded.in_ring = False
            self._ring.clear()
        return waiting

    def abandon_model(self, loaded: QueuedModel) -> list[Run]:
        """Remove all waiting runs of a model."""
        with self._lock:
            self._empty_inbox()
            waiting = _dropped(loaded.queue.clear())
            self._leave_ring_if_empty(loaded)
            self._wake_ups.put(None)  # the consumed one may have been meant for another thread
        return waiting

    def replace(self, slot: Slot) -> None:
        """Replace a thread whose slot has been retired.

        Raises: RuntimeError: the system gives no more threads.
        """
        at = self.slots.index(slot)
        successor = Slot(self._watchdog)
        name = f"{self.threads[at].name} again"
        thread = threading.Thread(target=self._work, args=(successor,), name=name, daemon=True)
        thread.start()
        self.slots = [*self.slots[:at], successor, *self.slots[at + 1 :]]
        self.threads = [*self.threads[:at], thread, *self.threads[at + 1 :]]

    def lend(self, thread_id: int) -> None:
        """Start another thread while this one waits for an engine process; this one ends with its batch. At most a few.

        Other models' runs need not wait for one that takes long elsewhere. Thread: the event loop's.
        Raises: RuntimeError: the system gives no more threads.
        """
        found = [slot for slot in self.slots if slot.thread_id == thread_id]
        if found and len(self.lent) < _MOST_LENT:
            self.replace(found[0])
            self.lent = [*self.lent, found[0]]
            found[0].lent = True

    def close_session(self, session: Session) -> None:
        """Close a session, on a worker thread while there is one. Thread: any, also from a finalizer."""
        if any(thread.is_alive() for thread in self.threads):
            self._inbox.append(session)
            self._wake_ups.put(None)
        else:
            close_session(session)

    def stop(self) -> None:
        """Let every thread end once it has executed the waiting runs."""
        self._stopping = True
        for _ in self.threads:
            self._wake_ups.put(None)

    def stop_merging(self, loaded: QueuedModel) -> bool:
        """Execute the model's runs one by one from now on; False if that was so before. Thread: any."""
        with self._lock:
            merged = loaded.queue.max_rows > 0
            loaded.queue.stop_merging()
            return merged

    def cpu_seconds(self) -> list[float | None]:
        """CPU time of each thread so far; None if unknown on this system."""
        clock_of = getattr(time, "pthread_getcpuclockid", None)  # not on macOS
        times: list[float | None] = []
        for thread in self.threads:
            if clock_of is None or thread.ident is None or not thread.is_alive():
                times.append(None)
            else:
                times.append(time.clock_gettime(clock_of(thread.ident)))
        return times

    # -- worker threads' side ------------------------------------------------------------------------------------------

    def _work(self, slot: Slot) -> None:
        slot.thread_id = threading.get_ident()
        lower_priority(self._nice)  # other clients get their answers while models compute
        while not (slot.retired or slot.lent) and self._step(slot):
            pass
        if slot.lent:
            with self._lock:
                self.lent = [each for each in self.lent if each is not slot]
            self._wake_ups.put(None)  # this thread may have consumed its successor's
        elif not slot.retired:
            self._stopped()

    def _step(self, slot: Slot) -> bool:
        """Execute a batch, or sleep until there may be one; False to end the thread."""
        wait = self._execute_next(slot)
        if wait is None:
            return True
        if self._stopping and not self._ring:
            self._wake_ups.put(None)  # this thread may have consumed the others'
            return False
        with suppress(queue.Empty):
            self._wake_ups.get(timeout=None if wait == math.inf else min(wait, _LONGEST_SLEEP_S))
        return True

    def _execute_next(self, slot: Slot) -> float | None:
        """Execute the next batch. Returns: None, or the seconds to sleep."""
        with self._lock:
            self._empty_inbox()
            sessions, self._to_close = self._to_close, []
            found = self._pick(time.monotonic())
            others_ready = len(self.slots) > 1 and any(loaded.may_start for loaded in self._ring)
        for session in sessions:
            close_session(session)
        if not isinstance(found, tuple):
            return found
        if others_ready:
            self._wake_ups.put(None)
        loaded, runs, proves = found
        try:
            (prove if proves else execute)(slot, loaded, runs, self._report)
        finally:
            with self._lock:
                loaded.leave(proves)
        return None

    def _pick(self, now: float) -> _Batch | float:
        """The next batch that is due, with the models taking turns, or the seconds until there is one."""
        wait = math.inf
        for _ in range(len(self._ring)):
            loaded = self._ring[0]
            self._ring.rotate(-1)
            if not loaded.may_start:
                continue
            if loaded.queue.next_deadline <= now and (runs := loaded.queue.expire(now)):
                self._expired((loaded, _dropped(runs)))
            found = loaded.queue.take(now)
            self._leave_ring_if_empty(loaded)
            if isinstance(found, list):
                for run in found:
                    run.started = True
                return loaded, found, loaded.enter(found)
            if found is not None:
                wait = min(wait, found)
        return wait

    def _empty_inbox(self) -> bool:
        """Consume the wake-ups and the inbox; False if there was neither."""
        found = bool(self._inbox)
        while not self._wake_ups.empty():
            found = True
            try:
                self._wake_ups.get_nowait()
            except queue.Empty:  # a sleeping thread was faster
                break
        while self._inbox:
            self._accept(self._inbox.popleft())
        return found

    def _accept(self, item: HandOver | Session) -> None:
        if not isinstance(item, tuple):
            self._to_close.append(item)
            return
        loaded, runs = item
        wanted = [run for run in runs if not run.dropped]
        for run in wanted:
            loaded.queue.offer(run)
        if wanted and not loaded.in_ring:  # without wanted runs, the queue may belong to the event loop by now
            loaded.in_ring = True
            self._ring.append(loaded)

    def _leave_ring_if_empty(self, loaded: QueuedModel) -> None:
        if loaded.in_ring and not loaded.queue:
            loaded.in_ring = False
            self._ring.remove(loaded)


def _dropped(runs: list[Run]) -> list[Run]:
    """The runs that must not be started any more. Under the lock."""
    for run in runs:
        run.dropped = True
    return runs


def close_session(session: Session) -> None:
    """Close a session on the calling thread; never fails."""
    try:
        session.close()
    except BaseException:  # a plugin's failure must not end the thread, and nobody waits for this
        logger.exception("a model could not be closed")
