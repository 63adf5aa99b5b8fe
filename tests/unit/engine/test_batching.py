"""The batching rules by example; tests/property/test_batching.py has them for all traces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from redisai_py.engine.batching import BatchQueue


@dataclass(eq=False)
class FakeJob:
    rows: int
    key: str = "k"
    since: float = 0.0
    deadline: float = math.inf


def queue(*jobs: FakeJob, max_rows: int = 4, min_rows: int = 0, max_wait_s: float = 0.0) -> BatchQueue[FakeJob]:
    waiting: BatchQueue[FakeJob] = BatchQueue(max_rows, min_rows, max_wait_s)
    for job in jobs:
        waiting.offer(job)
    return waiting


def sizes(waiting: BatchQueue[FakeJob], now: float = 0.0) -> list[list[int]]:
    """Rows of all batches that are due now."""
    batches = []
    while isinstance(batch := waiting.take(now), list):
        batches.append([job.rows for job in batch])
    return batches


@pytest.mark.parametrize(
    ("rows", "batches"),
    [
        ([1, 1, 1], [[1, 1, 1]]),
        ([1, 1, 1, 1, 1], [[1, 1, 1, 1], [1]]),
        ([3, 3], [[3], [3]]),  # RedisAI overshoots here: one batch of 6
        ([2, 3, 1], [[2], [3, 1]]),
        ([4, 1, 1], [[4], [1, 1]]),
        ([9], [[9]]),
        ([0, 0], [[0], [0]]),
    ],
)
def test_batches_take_what_fits_in_order(rows: list[int], batches: list[list[int]]) -> None:
    assert sizes(queue(*(FakeJob(r, since=float(i)) for i, r in enumerate(rows)))) == batches


def test_kinds_are_collected_from_the_whole_queue_oldest_first() -> None:
    jobs = [FakeJob(1, "a", 0), FakeJob(2, "b", 1), FakeJob(1, "a", 2), FakeJob(1, "b", 3), FakeJob(1, "a", 4)]
    assert sizes(queue(*jobs)) == [[1, 1, 1], [2, 1]]


def test_a_run_of_batchsize_rows_is_executed_alone_even_below_minbatchsize() -> None:
    waiting = queue(FakeJob(1, since=0), FakeJob(4, since=1), max_rows=4, min_rows=4)
    assert sizes(waiting) == [[4]]
    assert waiting.take(0) == math.inf


def test_minbatchtimeout_runs_from_the_oldest_run() -> None:
    waiting = queue(FakeJob(1, since=1.0), FakeJob(1, since=1.5), min_rows=3, max_wait_s=2.0)
    assert waiting.take(1.5) == pytest.approx(1.5)
    assert sizes(waiting, now=3.0) == [[1, 1]]


def test_a_batch_that_cannot_grow_is_not_held() -> None:
    assert sizes(queue(FakeJob(3), FakeJob(3), max_rows=4, min_rows=4)) == [[3]]
    assert sizes(queue(FakeJob(2), FakeJob(2), FakeJob(1), max_rows=4, min_rows=9)) == [[2, 2]]


def test_a_held_kind_does_not_hold_up_another() -> None:
    waiting = queue(FakeJob(1, "a", 0), FakeJob(2, "b", 1), FakeJob(1, "b", 2), min_rows=3)
    assert sizes(waiting) == [[2, 1]]
    assert len(waiting) == 1


def test_without_batchsize_every_run_is_executed_alone_in_order() -> None:
    assert sizes(queue(FakeJob(1, "a"), FakeJob(2, "b"), FakeJob(3, "a"), max_rows=0)) == [[1], [2], [3]]


def test_runs_of_one_kind_leave_together_in_order_where_nothing_is_merged() -> None:
    jobs = [FakeJob(1), FakeJob(1), FakeJob(1), FakeJob(2), FakeJob(2, "other"), FakeJob(0), FakeJob(0)]
    waiting = queue(*jobs, max_rows=0)
    found = []
    while waiting:
        assert waiting.first_alone() is jobs[sum(map(len, found))]
        found.append(waiting.take_alone(2))
    assert found == [jobs[:2], jobs[2:3], jobs[3:4], jobs[4:5], jobs[5:6], jobs[6:]]


def test_expiry_tells_the_next_deadline() -> None:
    late, soon, never = FakeJob(1, deadline=5.0), FakeJob(1, "b", deadline=2.0), FakeJob(1)
    waiting = queue(late, soon, never)
    assert waiting.next_deadline == 2.0
    assert waiting.expire(2.0) == [soon]
    assert waiting.next_deadline == 5.0
    assert waiting.expire(9.0) == [late]
    assert waiting.next_deadline == math.inf
    assert sizes(waiting) == [[1]]


def test_a_dropped_run_is_gone() -> None:
    stays, goes = FakeJob(1), FakeJob(1)
    waiting = queue(stays, goes)
    assert waiting.drop(goes)
    assert not waiting.drop(goes)
    assert waiting.take(0) == [stays]
    assert waiting.take(0) is None


@pytest.mark.parametrize("max_rows", [0, 1, 3, 4])
@pytest.mark.parametrize("rows", [(1,), (1, 1), (1, 2, 1), (4, 1), (2, 5), (0, 1), (1, 0), (3,)])
def test_the_short_cut_gives_the_batch_that_the_queue_would_give(max_rows: int, rows: tuple[int, ...]) -> None:
    jobs = [FakeJob(each) for each in rows]
    count = queue(max_rows=max_rows).leading_batch(jobs, 0.0)
    assert count == 0 or queue(*jobs, max_rows=max_rows).take(0.0) == jobs[:count]
    assert count or rows != (1,)
