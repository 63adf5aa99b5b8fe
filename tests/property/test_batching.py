"""Batching under random traces: nothing lost or taken twice, order kept per kind, sizes bounded, waits exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from redisai_py.engine.batching import BatchQueue


@dataclass(eq=False)
class FakeJob:
    serial: int
    rows: int
    key: str
    since: float
    deadline: float


# A step offers a run (rows, key, timeout), lets time pass, or drops the i-th run that waits.
_OFFER = st.tuples(st.just("offer"), st.integers(0, 9), st.sampled_from("abc"), st.sampled_from([math.inf, 3.0, 10.0]))
_PASS = st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 4.0]))
_DROP = st.tuples(st.just("drop"), st.integers(0, 20))
_TAKE = st.tuples(st.just("take"))
_QUEUES = st.tuples(st.integers(0, 8), st.integers(0, 10), st.sampled_from([0.0, 2.0, 5.0]))


class Trace:
    """A queue, what should be in it, and the checks of every batch that comes out."""

    def __init__(self, max_rows: int, min_rows: int, max_wait_s: float) -> None:
        self.max_rows, self.min_rows, self.max_wait_s = max_rows, min_rows, max_wait_s or math.inf
        self.queue: BatchQueue[FakeJob] = BatchQueue(max_rows, min_rows, max_wait_s)
        self.waiting: list[FakeJob] = []
        self.now = 0.0
        self.serial = 0

    def offer(self, rows: int, key: str, timeout: float) -> None:
        job = FakeJob(self.serial, rows, key, self.now, self.now + timeout)
        self.serial += 1
        self.queue.offer(job)
        self.waiting.append(job)

    def drop(self, i: int) -> None:
        if i < len(self.waiting):
            job = self.waiting.pop(i)
            assert self.queue.drop(job)
            assert not self.queue.drop(job)

    def expire(self) -> None:
        expired = self.queue.expire(self.now)
        assert {job.serial for job in expired} == {job.serial for job in self.waiting if job.deadline <= self.now}
        self.waiting = [job for job in self.waiting if job.deadline > self.now]
        assert self.queue.next_deadline == min((job.deadline for job in self.waiting), default=math.inf)

    def alone(self, job: FakeJob) -> bool:
        return not 0 < job.rows < self.max_rows

    def first_batch(self, head: FakeJob) -> tuple[list[FakeJob], bool]:
        """The batch that must begin with `head`, and whether a run of its kind did not fit."""
        if self.alone(head):
            return [head], True
        batch: list[FakeJob] = []
        for job in self.waiting:
            if job.key != head.key or self.alone(job):
                continue
            if sum(j.rows for j in batch) + job.rows > self.max_rows:
                return batch, True
            batch.append(job)
        return batch, False

    def expected(self) -> list[FakeJob] | float | None:
        """What the rules say, computed the slow way."""
        if not self.waiting:
            return None
        wait = math.inf
        seen: set[str | bool] = set()
        for head in self.waiting:
            kind = True if self.alone(head) else head.key
            if kind in seen:
                continue
            seen.add(kind)
            batch, full = self.first_batch(head)
            left = head.since + self.max_wait_s - self.now
            if full or sum(job.rows for job in batch) >= self.min_rows or left <= 0:
                return batch
            wait = min(wait, left)
        return wait

    def take(self) -> bool:
        """Check one `take`; whether it gave a batch."""
        self.expire()
        expected = self.expected()
        taken = self.queue.take(self.now)
        if not isinstance(expected, list):
            assert taken == expected
            return False
        assert isinstance(taken, list)
        # Runs offered at the same moment may go in either order across kinds, never within one.
        assert taken[0].since == expected[0].since
        assert [job.serial for job in taken] == [job.serial for job in self.first_batch(taken[0])[0]]
        assert len(taken) == 1 or sum(job.rows for job in taken) <= self.max_rows
        assert all(job.deadline > self.now for job in taken)
        for job in taken:
            self.waiting.remove(job)
        return True


@given(_QUEUES, st.lists(st.one_of(_OFFER, _OFFER, _PASS, _DROP, _TAKE), max_size=60))
def test_every_batch_is_the_one_that_the_rules_give(
    settings: tuple[int, int, float], steps: list[tuple[object, ...]]
) -> None:
    trace = Trace(*settings)
    for step in steps:
        if step[0] == "pass":
            trace.now += step[1]  # type: ignore[operator]
        else:
            getattr(trace, str(step[0]))(*step[1:])
        assert len(trace.queue) == len(trace.waiting)
        assert bool(trace.queue) == bool(trace.waiting)
    while trace.take():
        pass


@given(_QUEUES, st.lists(_OFFER, max_size=40))
def test_nothing_is_lost_however_it_leaves(settings: tuple[int, int, float], offers: list[tuple[object, ...]]) -> None:
    trace = Trace(*settings)
    for offer in offers:
        trace.offer(*offer[1:])  # type: ignore[arg-type]
        trace.now += 0.25
    left = [job.serial for job in trace.waiting]
    assert [job.serial for job in trace.queue.clear()] == left
    assert not trace.queue
    assert trace.queue.take(trace.now) is None


@given(_QUEUES, st.lists(_OFFER, max_size=40))
def test_runs_are_taken_one_by_one_in_order_once_merging_stops(
    settings: tuple[int, int, float], offers: list[tuple[object, ...]]
) -> None:
    trace = Trace(*settings)
    for offer in offers:
        trace.offer(*offer[1:])  # type: ignore[arg-type]
        trace.now += 0.25
    trace.queue.stop_merging()
    taken: list[int] = []
    while isinstance(batch := trace.queue.take(0.0), list):
        assert len(batch) == 1
        taken.append(batch[0].serial)
    assert taken == list(range(len(offers)))
