"""One model on several threads at once: who may, how many, and what ends with whom."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from redisai_py.errors import BackendError, DeadlineExceeded, Overloaded, RunTimeout
from tests.unit.engine.fakes import WAIT_S, Bench, FakeSession, engine_test, hold, tensor, values


class SharedSession(FakeSession):
    """May be entered by several threads. Each run waits until the test lets runs of its value (x[0, 0]) go, counts how
    many are inside, and can be stopped by its thread's id.
    """

    def __init__(self, concurrent: bool = True, rows_apart: bool = True) -> None:
        super().__init__()
        self.concurrent = concurrent
        self.rows_apart = rows_apart
        """Whether a row's result depends on that row alone."""
        self.inside: dict[int, float] = {}
        """Thread -> the value that it computes."""
        self.most = 0
        self._lock = threading.Condition()
        self._free: set[float] = set()
        self._stopped_threads: set[int] = set()

    def let_go(self, *values: float) -> None:
        with self._lock:
            self._free.update(values)
            self._lock.notify_all()

    def run(self, inputs: Sequence[Any], keep_on_device: bool = False) -> list[Any]:
        assert not self.closed.is_set()
        value, me = float(inputs[0].ravel()[0]), threading.get_ident()
        with self._lock:
            self.inside[me] = value
            self.most = max(self.most, len(self.inside))
            self.batches.append([tuple(array.shape) for array in inputs])
            self.entered.release()
            done = self._lock.wait_for(lambda: value in self._free or me in self._stopped_threads, WAIT_S)
            del self.inside[me]
            if me in self._stopped_threads:
                self._stopped_threads.discard(me)
                raise BackendError("stopped by terminate")
            assert done
        return [inputs[0] * 2 if self.rows_apart else inputs[0] * 2 + inputs[0].shape[0]]

    def terminate(self, thread_id: int | None = None) -> bool:  # type: ignore[override]
        with self._lock:
            if self.can_stop:
                self._stopped_threads.update(self.inside if thread_id is None else {thread_id} & self.inside.keys())
                self._lock.notify_all()
        return self.can_stop


@engine_test(threads_per_queue=2)
async def test_two_runs_of_a_concurrent_session_overlap(bench: Bench) -> None:
    loaded, session = await bench.load(session=SharedSession())
    runs = [bench.engine.run_model(loaded, [tensor(value=value)]) for value in (1.0, 2.0, 3.0)]
    await bench.entered(session)
    await bench.entered(session)
    assert bench.engine.snapshot().queues["CPU"].running == 2
    session.let_go(2.0)
    assert values(await runs[1]) == [[4.0, 4.0]]
    await bench.entered(session)  # the third takes the free thread while the first is still inside
    assert set(session.inside.values()) == {1.0, 3.0}
    session.let_go(1.0, 3.0)
    assert [values(await run) for run in (runs[0], runs[2])] == [[[2.0, 2.0]], [[6.0, 6.0]]]
    assert session.most == 2
    assert bench.engine.stats.snapshot("m").calls == 3


@pytest.mark.parametrize("kind", ["not concurrent", "stateful"])
def test_others_are_entered_by_one_thread_at_a_time(kind: str) -> None:
    @engine_test(threads_per_queue=3)
    async def scenario(bench: Bench) -> None:
        session = SharedSession(concurrent=kind == "stateful")
        session.stateful = kind == "stateful"  # type: ignore[attr-defined]
        loaded, _ = await bench.load(session=session)
        runs = [bench.engine.run_model(loaded, [tensor(value=value)]) for value in (1.0, 2.0, 3.0)]
        other, _ = await bench.load("other")
        await bench.entered(session)
        await bench.engine.run_model(other, [tensor()])  # a free thread has looked at the ring meanwhile
        assert len(session.batches) == 1
        session.let_go(1.0, 2.0, 3.0)
        for run in runs:
            await run
        assert session.most == 1

    scenario()


@engine_test(threads_per_queue=3, spare_threads=1)
async def test_a_busy_model_leaves_the_spare_thread_to_others(bench: Bench) -> None:
    loaded, session = await bench.load(session=SharedSession())
    runs = [bench.engine.run_model(loaded, [tensor(value=value)]) for value in (1.0, 2.0, 3.0, 4.0)]
    await bench.entered(session)
    await bench.entered(session)
    other, _ = await bench.load("other")
    for _ in range(3):
        await bench.engine.run_model(other, [tensor()])
    session.let_go(1.0, 2.0, 3.0, 4.0)
    for run in runs:
        await run
    assert session.most == 2


@engine_test(threads_per_queue=1, device_threads={"CPU:1": 3}, spare_threads=1)
async def test_a_device_with_a_number_of_its_own_gives_a_model_all_threads(bench: Bench) -> None:
    loaded, session = await bench.load(device=b"CPU:1", session=SharedSession())
    runs = [bench.engine.run_model(loaded, [tensor(value=value)]) for value in (1.0, 2.0, 3.0, 4.0)]
    for _ in range(3):
        await bench.entered(session)
    session.let_go(1.0, 2.0, 3.0, 4.0)
    for run in runs:
        await run
    assert session.most == 3


@engine_test(threads_per_queue=2)
async def test_a_batch_goes_to_the_free_thread_and_the_next_one_gathers(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4, session=SharedSession())
    runs = [bench.engine.run_model(loaded, [tensor(value=1.0)])]
    await bench.entered(session)
    runs += [bench.engine.run_model(loaded, [tensor(value=2.0)]) for _ in range(2)]
    await bench.entered(session)
    runs += [bench.engine.run_model(loaded, [tensor(value=3.0)]) for _ in range(6)]
    await asyncio.sleep(0)
    session.let_go(1.0, 2.0, 3.0)
    for run in runs:
        await run
    assert sorted(shape[0] for (shape,) in session.batches) == [1, 2, 2, 4]


@engine_test(threads_per_queue=2)
async def test_a_held_batch_stays_held_with_a_thread_free(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4, min_batch=3, session=SharedSession())
    session.let_go(1.0)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    other, _ = await bench.load("other")
    await bench.engine.run_model(other, [tensor()])
    assert not session.batches
    runs += [bench.engine.run_model(loaded, [tensor()]) for _ in range(6)]
    for run in runs:
        await run
    assert [shape[0] for (shape,) in session.batches] == [4, 4]


@engine_test(threads_per_queue=2)
async def test_a_replaced_model_is_closed_when_its_last_thread_is_out(bench: Bench) -> None:
    loaded, session = await bench.load(session=SharedSession())
    runs = [bench.engine.run_model(loaded, [tensor(value=value)]) for value in (1.0, 2.0)]
    await bench.entered(session)
    await bench.entered(session)
    bench.engine.unload("m")
    del loaded
    session.let_go(1.0)
    await runs[0]
    assert not session.closed.is_set()
    session.let_go(2.0)
    await runs[1]
    assert await asyncio.to_thread(session.closed.wait, WAIT_S)


@engine_test(threads_per_queue=2, model_execution_timeout_ms=1000)
async def test_one_overdue_run_is_stopped_and_the_one_beside_it_goes_on(bench: Bench) -> None:
    loaded, session = await bench.load(session=SharedSession())
    overdue = bench.engine.run_model(loaded, [tensor(value=1.0)])
    await bench.entered(session)
    await asyncio.sleep(0.6)
    beside = bench.engine.run_model(loaded, [tensor(value=2.0)])
    await bench.entered(session)
    with pytest.raises(RunTimeout, match="MODEL_EXECUTION_TIMEOUT of 1000 ms"):
        await overdue
    assert list(session.inside.values()) == [2.0] or not beside.done
    session.let_go(2.0)
    assert values(await beside) == [[4.0, 4.0]]


@engine_test(threads_per_queue=2, model_execution_timeout_ms=1000)
async def test_a_runaway_takes_its_thread_and_leaves_the_run_beside_it(bench: Bench) -> None:
    loaded, session = await bench.load(session=SharedSession())
    session.can_stop = False
    runaway = bench.engine.run_model(loaded, [tensor(value=1.0)])
    await bench.entered(session)
    with pytest.raises(DeadlineExceeded):
        await runaway
    bench.engine.set_execution_timeout(0)
    beside = bench.engine.run_model(loaded, [tensor(value=2.0)])
    await bench.entered(session)
    waiting = bench.engine.run_model(loaded, [tensor(value=3.0)])
    bench.engine.set_execution_timeout(60_000)
    with pytest.raises(Overloaded, match="does not stop"):
        await waiting
    assert bench.engine.runaways_going_on == 1
    session.let_go(2.0)
    assert values(await beside) == [[4.0, 4.0]]
    again, _ = await bench.load("m2", session=SharedSession())
    again.session.let_go(4.0)
    assert values(await bench.engine.run_model(again, [tensor(value=4.0)])) == [[8.0, 8.0]]
    session.let_go(1.0)
    del loaded
    deadline = time.monotonic() + WAIT_S
    while bench.engine.runaways_going_on:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@engine_test(threads_per_queue=2, merge_checks=1)
async def test_one_thread_proves_while_others_wait(bench: Bench) -> None:
    loaded, session = await bench.load(batch=2, session=SharedSession())
    session.let_go(1.0, 2.0, -64.0, 0.0)
    runs = [bench.engine.run_model(loaded, [tensor(value=1.0)]) for _ in range(6)]
    for run in runs:
        assert values(await run) == [[2.0, 2.0]]
    singles = [shape for (shape,) in session.batches if shape[0] == 1]
    assert len(singles) == 4  # two requests, and two contrasts: proved once
    assert loaded.proof.reason == ""


@engine_test(threads_per_queue=2, merge_checks=0)
async def test_the_end_of_merging_is_told_once(bench: Bench) -> None:
    told: list[Any] = []
    bench.engine._runner._ended_merging = told.append
    session = SharedSession()
    session.compute = lambda inputs: [np.zeros((3, 2), np.float32)]
    loaded, session = await bench.load(batch=2, session=_Ragged())
    session.let_go(1.0)
    for run in [bench.engine.run_model(loaded, [tensor()]) for _ in range(8)]:
        await run
    assert told == [loaded]


class _Ragged(SharedSession):
    """Gives three rows whatever it gets."""

    def run(self, inputs: Sequence[Any], keep_on_device: bool = False) -> list[Any]:
        super().run(inputs, keep_on_device)
        return [np.zeros((3, 2), np.float32)]


class _HangsOn(FakeSession):
    """Merged runs fail; a single run of `value` waits for the gate and cannot be stopped."""

    def __init__(self, value: float, merged_fail: bool) -> None:
        super().__init__()
        self.value = value
        self.merged_fail = merged_fail
        self.can_stop = False
        self.hangs = threading.Event()
        self.ends = threading.Event()

    def run(self, inputs: Sequence[Any], keep_on_device: bool = False) -> list[Any]:
        if self.merged_fail and inputs[0].shape[0] > 1:
            raise BackendError("no")
        if float(inputs[0].ravel()[0]) == self.value and self.gate.is_set():
            self.hangs.set()
            assert self.ends.wait(WAIT_S)
        return super().run(inputs, keep_on_device)


@pytest.mark.parametrize(
    ("merge_checks", "value", "merged_fail"),
    [(0, 2.0, True), (1, 2.0, False), (1, -64.0, False)],
    ids=["one by one", "proving", "comparing"],
)
def test_the_rest_of_a_batch_is_told_when_a_run_before_it_does_not_end(
    merge_checks: int, value: float, merged_fail: bool
) -> None:
    @engine_test(merge_checks=merge_checks, model_execution_timeout_ms=1000)
    async def scenario(bench: Bench) -> None:
        session = _HangsOn(value, merged_fail)
        loaded, _ = await bench.load(batch=4, session=session)
        first = await hold(bench, loaded, session)
        runs = [bench.engine.run_model(loaded, [tensor(value=number)]) for number in (1.0, 2.0, 3.0)]
        await asyncio.sleep(0)
        session.gate.set()
        await first
        assert values(await runs[0]) == [[2.0, 2.0]]
        if value == 2.0:
            with pytest.raises(DeadlineExceeded):
                await runs[1]
        with pytest.raises(Overloaded):
            await runs[2]
        assert bench.engine.runaways_going_on == 1
        session.ends.set()
        deadline = time.monotonic() + WAIT_S
        while bench.engine.runaways_going_on:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert loaded.unfinished == loaded.on_threads == 0

    scenario()
