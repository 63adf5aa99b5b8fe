"""Which queued runs of one model are executed together, and when. Pure: no threads, no clock, no arrays.

Rules (AI.MODELSTORE BATCHSIZE, MINBATCHSIZE, MINBATCHTIMEOUT; docs/adr/0005-batching.md):
- Runs with equal keys are merged, in order of arrival, up to `max_rows` rows.
- A run of `max_rows` rows or more, or without rows, is executed alone and never held.
- A batch of fewer than `min_rows` rows is held until its oldest run has waited `max_wait_s` (0: without limit),
  unless it cannot grow because the next run of its kind does not fit.
- Of the batches that are not held, the one with the oldest run goes first; a held batch delays no other.
- A run past its deadline leaves through `expire`, which must be called before `take`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar

__all__ = ["BatchQueue", "Job"]


class Job(Protocol):
    """A run, as the queue needs it."""

    rows: int
    """Dimension 0 that all inputs share; 0 for a run that cannot be merged."""
    key: Hashable
    """Equal for runs that can be merged: dtypes and shapes without dimension 0."""
    since: float
    """When it was queued, in seconds of any clock; never decreases from one `offer` to the next."""
    deadline: float
    """When it leaves the queue without being executed; infinite without a TIMEOUT."""


J = TypeVar("J", bound=Job)

_ALONE = object()


class BatchQueue(Generic[J]):
    """The waiting runs of one model.

    Args: max_rows: BATCHSIZE, 0 merges nothing.   min_rows: MINBATCHSIZE.   max_wait_s: MINBATCHTIMEOUT in seconds.
    Thread: not thread-safe; the owner locks.
    """

    def __init__(self, max_rows: int = 0, min_rows: int = 0, max_wait_s: float = 0.0) -> None:
        self.max_rows = max_rows
        self.min_rows = min_rows
        self.max_wait_s = max_wait_s or math.inf
        self.next_deadline = math.inf
        """Lower bound of the waiting runs' deadlines; may be too early until `expire` is called."""
        self._lanes: dict[Hashable, deque[J]] = {}  # one per key, none empty; runs to be executed alone share _ALONE

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def offer(self, job: J) -> None:
        """Queue a run."""
        key = self._lane_of(job)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque()
        lane.append(job)
        if job.deadline < self.next_deadline:
            self.next_deadline = job.deadline

    def leading_batch(self, jobs: Sequence[J], now: float) -> int:
        """How many of these runs `take` would return immediately if they were offered to the empty queue.

        A shortcut for the common case; 0 if the case is not that simple.
        """
        if self._lanes or self.min_rows > 1:
            return 0
        if not self.max_rows:
            return 1 if jobs[0].deadline > now else 0
        key, room, count = jobs[0].key, self.max_rows, 0
        for job in jobs:
            if job.key != key or job.deadline <= now:
                return 0
            room -= job.rows
            if room < 0 or job.rows < 1:
                break
            count += 1
        return count

    def take(self, now: float) -> list[J] | float | None:
        """A batch to execute; the seconds until one is due, infinite if it takes another `offer`; None if empty."""
        if not self._lanes:
            return None
        wait = math.inf
        ready: Hashable = None
        oldest = math.inf
        for key, lane in self._lanes.items():
            hold = self._hold(key, lane, now)
            if hold > 0:
                wait = min(wait, hold)
            elif lane[0].since < oldest:
                oldest = lane[0].since
                ready = key
        return wait if ready is None else self._pop(ready)

    def first_alone(self) -> J:
        """The oldest run. Only if there is one and BATCHSIZE is 0."""
        return self._lanes[_ALONE][0]

    def take_alone(self, most: int) -> list[J]:
        """Up to this many of the oldest runs, all like the first one in key and rows. Only if there is one and
        BATCHSIZE is 0.
        """
        lane = self._lanes[_ALONE]
        first = lane.popleft()
        jobs = [first]
        key, rows = first.key, first.rows
        while rows and lane and len(jobs) < most and lane[0].rows == rows and lane[0].key == key:
            jobs.append(lane.popleft())
        if not lane:
            del self._lanes[_ALONE]
        return jobs

    def drop(self, job: J) -> bool:
        """Remove a run; False if it is not in the queue."""
        key = self._lane_of(job)
        lane = self._lanes.get(key)
        if lane is None or job not in lane:
            return False
        lane.remove(job)
        if not lane:
            del self._lanes[key]
        return True

    def expire(self, now: float) -> list[J]:
        """Remove and return the runs whose deadline is `now` or earlier; makes `next_deadline` exact."""
        expired: list[J] = []
        self.next_deadline = math.inf
        for key, lane in list(self._lanes.items()):
            kept: deque[J] = deque()
            for job in lane:
                if job.deadline <= now:
                    expired.append(job)
                else:
                    kept.append(job)
                    self.next_deadline = min(self.next_deadline, job.deadline)
            if kept:
                self._lanes[key] = kept
            else:
                del self._lanes[key]
        return expired

    def clear(self) -> list[J]:
        """Remove and return all runs, oldest first."""
        jobs = sorted((job for lane in self._lanes.values() for job in lane), key=lambda job: job.since)
        self._lanes.clear()
        self.next_deadline = math.inf
        return jobs

    def stop_merging(self) -> None:
        """Execute every run alone from now on, including the waiting ones."""
        jobs = self.clear()
        self.max_rows = self.min_rows = 0
        for job in jobs:
            self.offer(job)

    def _lane_of(self, job: J) -> Hashable:
        return job.key if 0 < job.rows < self.max_rows else _ALONE

    def _hold(self, key: Hashable, lane: deque[J], now: float) -> float:
        """Seconds for which a lane's first batch is held; 0 or less if it is ready."""
        if self.min_rows <= 1 or key is _ALONE:
            return 0.0
        rows = 0
        for job in lane:
            rows += job.rows
            if rows >= self.min_rows or rows > self.max_rows:
                return 0.0
        return lane[0].since + self.max_wait_s - now

    def _pop(self, key: Hashable) -> list[J]:
        lane = self._lanes[key]
        batch = [lane.popleft()]
        if key is not _ALONE:
            room = self.max_rows - batch[0].rows
            while lane and lane[0].rows <= room:
                job = lane.popleft()
                room -= job.rows
                batch.append(job)
        if not lane:
            del self._lanes[key]
        return batch
