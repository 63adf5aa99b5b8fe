"""How long runs wait: for enough others, until their TIMEOUT, until nobody wants them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from redisai_py.errors import DeadlineExceeded, QueueTimeout
from tests.unit.engine.fakes import WAIT_S, Bench, engine_test, hold, tensor, values


@engine_test()
async def test_min_batch_size_holds_runs_until_there_are_enough(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4, min_batch=3)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    await asyncio.sleep(0)
    assert bench.engine.snapshot().queues["CPU"].waiting == 2
    runs.append(bench.engine.run_model(loaded, [tensor()]))
    for run in runs:
        await run
    assert session.batches == [[(3, 2)]]


@engine_test()
async def test_min_batch_timeout_lets_them_go(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4, min_batch=3, min_wait_ms=20)
    started = asyncio.get_running_loop().time()
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    for run in runs:
        await run
    assert asyncio.get_running_loop().time() - started >= 0.019
    assert session.batches == [[(2, 2)]]


@engine_test()
async def test_min_batch_timeout_may_be_any_number(bench: Bench) -> None:
    loaded, _ = await bench.load(batch=4, min_batch=2, min_wait_ms=2**62)
    first = bench.engine.run_model(loaded, [tensor()])
    await asyncio.sleep(0.05)  # for the thread to find out how long it may sleep
    assert not first.done
    await bench.engine.run_model(loaded, [tensor()])
    assert first.done


@engine_test()
async def test_timeout_ends_a_queued_run_while_the_thread_is_busy(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4)
    first = await hold(bench, loaded, session)
    run = bench.engine.run_model(loaded, [tensor()], timeout_ms=20)
    with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
        await run
    assert not first.done
    session.gate.set()
    await first
    assert session.batches == [[(1, 2)]]
    assert bench.engine.stats.snapshot("m").calls == 1


class _LateQueue(queue.SimpleQueue[Any]):
    """What is taken out of it with waiting comes late: not before `go`."""

    asleep = threading.Event()
    go = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.asleep.set()
        item = super().get(block, timeout)
        assert self.go.wait(WAIT_S)
        return item


@pytest.fixture
def late_to_wake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Worker threads that sleep, once woken, get no further before `_LateQueue.go`: as where cores are scarce."""
    _LateQueue.asleep.clear()
    _LateQueue.go.clear()
    late = SimpleNamespace(SimpleQueue=_LateQueue, Empty=queue.Empty)
    monkeypatch.setattr("redisai_py.engine.worker.queue", late)  # the loader's threads wake as ever
    yield
    _LateQueue.go.set()


@pytest.mark.usefixtures("late_to_wake")
@engine_test()
async def test_timeout_ends_a_run_whose_thread_is_late_to_wake(bench: Bench) -> None:
    loaded, session = await bench.load()
    assert await asyncio.to_thread(_LateQueue.asleep.wait, WAIT_S)
    try:
        with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
            await bench.engine.run_model(loaded, [tensor()], timeout_ms=20)
    finally:
        _LateQueue.go.set()
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]
    assert len(session.batches) == 1


@engine_test()
async def test_timeout_ends_a_run_that_is_held_without_limit(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4, min_batch=2)
    with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
        await bench.engine.run_model(loaded, [tensor()], timeout_ms=20)
    run = bench.engine.run_model(loaded, [tensor(2)], timeout_ms=10_000)
    await run
    assert session.batches == [[(2, 2)]]


@engine_test()
async def test_timeout_does_not_touch_a_run_that_has_started(bench: Bench) -> None:
    loaded, session = await bench.load()
    session.gate.clear()
    run = bench.engine.run_model(loaded, [tensor()], timeout_ms=500)
    late = bench.engine.run_model(loaded, [tensor()], timeout_ms=550)
    await bench.entered(session)
    with pytest.raises(DeadlineExceeded):
        await late
    assert not run.done
    session.gate.set()
    assert values(await run) == [[2.0, 2.0]]


@engine_test()
async def test_a_queued_run_can_be_cancelled_and_a_started_one_cannot(bench: Bench) -> None:
    loaded, session = await bench.load()
    first = await hold(bench, loaded, session)
    fresh = bench.engine.run_model(loaded, [tensor()])
    assert fresh.cancel_queued()  # not yet handed over
    queued = bench.engine.run_model(loaded, [tensor()])
    await asyncio.sleep(0)
    assert queued.cancel_queued()  # handed over
    assert not queued.cancel_queued()
    assert not first.cancel_queued()
    session.gate.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await queued
    await bench.engine.run_model(loaded, [tensor()])
    assert len(session.batches) == 2


@engine_test()
async def test_cancelling_the_task_that_awaits_takes_the_run_out_of_its_queue(bench: Bench) -> None:
    loaded, session = await bench.load()
    first = await hold(bench, loaded, session)

    async def ask() -> None:
        await bench.engine.run_model(loaded, [tensor()])

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    session.gate.set()
    await first
    assert len(session.batches) == 1
    assert loaded.unfinished == 0
