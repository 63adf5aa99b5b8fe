"""MODEL_EXECUTION_TIMEOUT: runs in progress are stopped where the framework can, and their clients told in any case."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redisai_py.engine.engine import Engine, EngineSettings
from redisai_py.errors import BackendError, DeadlineExceeded, RunTimeout
from tests.unit.engine.fakes import WAIT_S, Bench, FakeSession, double, engine_test, tensor, values

PLENTY_MS = 10_000
"""A limit for what must not be stopped, however busy the machine is."""


@engine_test(model_execution_timeout_ms=30)
async def test_a_run_past_the_limit_is_stopped_and_the_next_one_runs(bench: Bench) -> None:
    loaded, session = await bench.load()
    session.gate.clear()
    run = bench.engine.run_model(loaded, [tensor()])
    with pytest.raises(DeadlineExceeded) as caught:
        await run
    assert str(caught.value) == (
        "ERR MODEL_EXECUTION_TIMEOUT of 30 ms passed: Exiting due to terminate flag being set to true"
    )
    bench.engine.set_execution_timeout(PLENTY_MS)
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.errors) == (2, 1)
    assert "MODEL_EXECUTION_TIMEOUT" in stats.last_error


@engine_test(model_execution_timeout_ms=30)
async def test_a_merged_run_has_the_time_of_its_members_as_single_runs_took_it(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4)
    loaded.proof.single_s = PLENTY_MS / 1000
    bench.engine.set_execution_timeout(400)
    session.gate.clear()
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(4)]
    await bench.entered(session)
    await asyncio.sleep(0.5)  # longer than one run may take, and much less than four
    assert not any(run.done for run in runs)
    session.gate.set()
    assert [values(await run) for run in runs] == [[[2.0, 2.0]]] * 4
    assert session.batches == [[(4, 2)]]


@engine_test(model_execution_timeout_ms=30)
async def test_a_merged_run_that_was_stopped_is_repeated_singly(bench: Bench) -> None:
    def stuck(inputs: Any) -> list[Any]:
        if (inputs[0] == 7).any():
            session.gate.clear()
            assert session.gate.wait(WAIT_S)
            raise BackendError("stopped by terminate")
        return double(inputs)

    session = FakeSession(stuck)
    loaded, _ = await bench.load(session=session, batch=4)
    runs = [bench.engine.run_model(loaded, [tensor(1, value)]) for value in (6.0, 7.0, 8.0)]
    assert values(await runs[0]) == [[12.0, 12.0]]
    assert values(await runs[2]) == [[16.0, 16.0]]
    with pytest.raises(RunTimeout, match="of 30 ms"):
        await runs[1]
    assert session.batches == [[(3, 2)], [(1, 2)], [(1, 2)], [(1, 2)]]
    assert not loaded.proof.reason  # one request was to blame


@engine_test(model_execution_timeout_ms=30)
async def test_a_framework_that_cannot_stop_keeps_its_thread_but_not_the_client(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4)
    session.can_stop = False
    session.gate.clear()
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    for run in runs:
        with pytest.raises(RunTimeout, match="the framework cannot stop"):
            await run
    assert loaded.unfinished == 2
    bench.engine.set_execution_timeout(PLENTY_MS)
    session.gate.set()
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]
    assert loaded.unfinished == 0
    assert session.batches == [[(2, 2)], [(1, 2)]]  # a stopped batch is not run again
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.errors) == (3, 2)


@engine_test(model_execution_timeout_ms=0)
async def test_the_limit_can_be_set_while_a_run_is_in_progress(bench: Bench) -> None:
    loaded, session = await bench.load()
    session.gate.clear()
    run = bench.engine.run_model(loaded, [tensor()])
    await bench.entered(session)
    bench.engine.set_execution_timeout(20)
    with pytest.raises(RunTimeout, match="of 20 ms"):
        await run
    bench.engine.set_execution_timeout(0)
    session.gate.set()
    await bench.engine.run_model(loaded, [tensor()])


@engine_test(model_execution_timeout_ms=1000)
async def test_short_runs_are_left_alone_however_many(bench: Bench) -> None:
    loaded, session = await bench.load()
    until = asyncio.get_running_loop().time() + 1.2
    while asyncio.get_running_loop().time() < until:
        await bench.engine.run_model(loaded, [tensor()])
    assert bench.engine.stats.snapshot("m").errors == 0
    assert len(session.batches) > 2


@engine_test(model_execution_timeout_ms=PLENTY_MS, inline_run_us=1_000_000)
async def test_a_run_on_the_event_loop_is_stopped_too(bench: Bench) -> None:
    loaded, session = await bench.load()
    await bench.engine.run_model(loaded, [tensor()])
    bench.engine.set_execution_timeout(30)
    session.gate.clear()
    with pytest.raises(RunTimeout, match="MODEL_EXECUTION_TIMEOUT"):
        await bench.engine.run_model(loaded, [tensor()])
    assert session.threads[1] == "MainThread"


def test_a_hanging_framework_does_not_keep_close_from_ending() -> None:
    async def run() -> None:
        bench = Bench()
        loaded, session = await bench.load()
        session.can_stop = False
        session.gate.clear()
        run = bench.engine.run_model(loaded, [tensor()])
        await bench.entered(session)
        thread = next(iter(bench.engine._runner.devices)).threads[0]
        assert not await bench.engine.close(grace_s=0.05)
        assert run.done
        assert not session.closed.is_set()
        session.gate.set()
        await asyncio.to_thread(thread.join, WAIT_S)
        assert not thread.is_alive()

    asyncio.run(run())


def test_no_thread_watches_where_there_is_no_limit() -> None:
    async def run() -> None:
        engine = Engine(EngineSettings(model_execution_timeout_ms=0), asyncio.get_running_loop())
        assert await engine.close()

    asyncio.run(run())


@engine_test(model_execution_timeout_ms=2**62)
async def test_the_limit_may_be_any_number(bench: Bench) -> None:
    loaded, session = await bench.load()
    session.gate.clear()
    run = bench.engine.run_model(loaded, [tensor()])
    await bench.entered(session)
    await asyncio.sleep(0.05)  # for the watchdog to find out how long it may sleep
    bench.engine.set_execution_timeout(20)
    with pytest.raises(RunTimeout, match="of 20 ms"):
        await run


@engine_test()
async def test_a_plugin_that_fails_to_stop_does_not_end_the_watch(bench: Bench) -> None:
    def broken() -> bool:
        raise ValueError("cannot")

    loaded, session = await bench.load()
    session.terminate = broken  # type: ignore[method-assign]
    for _ in range(2):
        bench.engine.set_execution_timeout(30)
        session.gate.clear()
        with pytest.raises(RunTimeout, match="the framework cannot stop"):
            await bench.engine.run_model(loaded, [tensor()])
        bench.engine.set_execution_timeout(PLENTY_MS)
        session.gate.set()
        await bench.engine.run_model(loaded, [tensor()])
