"""Runs on the event loop: the policy by itself, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from redisai_py.engine.inline import InlinePolicy
from redisai_py.errors import QueueTimeout
from tests.unit.engine.fakes import Bench, FakeSession, Order, double, engine_test, tensor, values

LIMIT_S = 0.0003
HUGE_US = 10_000_000  # every run of a FakeSession counts as short


def _allows(policy: InlinePolicy, kind: object, rows: int) -> bool:
    return rows <= policy.short_rows.get(kind, -1)


def test_only_what_was_measured_to_be_short_is_allowed() -> None:
    policy = InlinePolicy(LIMIT_S)
    assert not _allows(policy, "k", 1)
    policy.measured("k", 4, 0.0001, 0.0001)
    assert _allows(policy, "k", 1)
    assert _allows(policy, "k", 4)
    assert not _allows(policy, "k", 5)
    assert not _allows(policy, "other", 1)
    policy.measured("k", 2, 0.0001, 0.0001)
    assert _allows(policy, "k", 4)
    policy.measured("k", 8, 0.001, 0.001)
    assert not _allows(policy, "k", 8)


def test_inputs_on_a_device_are_never_allowed() -> None:
    policy = InlinePolicy(LIMIT_S)
    policy.measured(None, 0, 0.0, 0.0)
    assert not _allows(policy, None, 0)


def test_a_wait_for_the_interpreter_is_not_held_against_a_model() -> None:
    policy = InlinePolicy(LIMIT_S)
    policy.measured("waited", 1, 0.005, 0.0001)
    policy.measured("blocked", 1, 0.5, 0.0001)
    assert _allows(policy, "waited", 1)
    assert not _allows(policy, "blocked", 1)


def test_one_clearly_slow_run_is_enough() -> None:
    policy = InlinePolicy(LIMIT_S)
    policy.measured("k", 1, 0.0001, 0.0001)
    policy.ran(0.01, 0.01)
    assert not _allows(policy, "k", 1)
    policy.measured("k", 1, 0.0001, 0.0001)
    assert not _allows(policy, "k", 1)


def test_a_very_long_run_is_enough_also_where_its_cpu_time_was_not_measured() -> None:
    policy = InlinePolicy(LIMIT_S)
    policy.measured("k", 1, 0.0001, 0.0001)
    policy.ran(0.3, 0.0)
    assert _allows(policy, "k", 1)
    policy.ran(0.6, 0.0)
    assert not _allows(policy, "k", 1)


def test_interruptions_among_many_fast_runs_are_forgiven_but_not_a_series() -> None:
    policy = InlinePolicy(LIMIT_S)
    policy.measured("k", 1, 0.0001, 0.0001)
    for _ in range(100):
        policy.ran(0.01, 0.0001)
        for _ in range(2):
            policy.ran(0.0005, 0.0001)
    assert _allows(policy, "k", 1)
    for _ in range(8):
        policy.ran(0.01, 0.0001)
    assert not _allows(policy, "k", 1)


def test_no_limit_means_never() -> None:
    policy = InlinePolicy(0.0)
    policy.measured("k", 1, 0.0, 0.0)
    assert not _allows(policy, "k", 1)


def test_the_number_of_kinds_that_are_remembered_is_bounded() -> None:
    policy = InlinePolicy(LIMIT_S)
    for kind in range(1000):
        policy.measured(kind, 1, 0.0, 0.0)
    assert not _allows(policy, 0, 1)
    assert _allows(policy, 999, 1)


@engine_test(inline_run_us=HUGE_US)
async def test_the_first_run_goes_to_the_thread_and_the_next_ones_stay(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    for _ in range(3):
        assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]
    assert session.threads == ["redisai CPU 1", "MainThread", "MainThread"]
    assert bench.engine.stats.snapshot("m").calls == 3


@engine_test(inline_run_us=HUGE_US)
async def test_runs_of_one_iteration_are_merged_and_an_unseen_size_goes_to_the_thread(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    await bench.engine.run_model(loaded, [tensor()])
    for _ in range(2):
        runs = [bench.engine.run_model(loaded, [tensor(1, float(i))]) for i in range(4)]
        assert [values(await run)[0][0] for run in runs] == [0.0, 2.0, 4.0, 6.0]
    assert session.batches == [[(1, 2)], [(4, 2)], [(4, 2)]]
    assert session.threads == ["redisai CPU 1", "redisai CPU 1", "MainThread"]


@engine_test(inline_run_us=HUGE_US)
async def test_no_run_passes_another_one_on_the_way(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    await bench.engine.run_model(loaded, [tensor()])
    order = Order()
    session.gate.clear()
    sizes = [2, 1, 3, 1, 9, 1]  # 2 is unseen: it goes to the thread, and what comes later must wait for it
    for i, rows in enumerate(sizes):
        run = bench.engine.run_model(loaded, [tensor(rows)])
        order.watch(i, run)
        await asyncio.sleep(0)
    session.gate.set()
    assert [i for i in await order.all() if sizes[i] < 8] == [0, 1, 2, 3, 5]
    assert "MainThread" not in session.threads


@engine_test(inline_run_us=HUGE_US, inline_budget_us=0)
async def test_what_the_budget_leaves_over_is_continued_in_the_next_iteration(bench: Bench) -> None:
    loaded, session = await bench.load()
    await bench.engine.run_model(loaded, [tensor()])
    runs = [bench.engine.run_model(loaded, [tensor(1, float(i))]) for i in range(4)]
    late = bench.engine.run_model(loaded, [tensor()], timeout_ms=0)
    await asyncio.sleep(0)
    assert [run.done for run in runs] == [True, False, False, False]
    assert runs[2].cancel_queued()
    runs.append(bench.engine.run_model(loaded, [tensor(1, 4.0)]))
    await asyncio.sleep(0)
    assert [run.done for run in runs] == [True, True, True, False, False]
    assert values(await runs[4]) == [[8.0, 8.0]]
    assert values(await runs[3]) == [[6.0, 6.0]]
    with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
        await late
    assert session.threads == ["redisai CPU 1", *["MainThread"] * 4]


@engine_test(inline_run_us=HUGE_US)
async def test_models_take_turns_on_the_event_loop(bench: Bench) -> None:
    a, a_session = await bench.load("a")
    b, b_session = await bench.load("b")
    for loaded in (a, b):
        await bench.engine.run_model(loaded, [tensor()])
    order: list[str] = []
    a_session.compute = lambda inputs: order.append("a") or double(inputs)  # type: ignore[func-returns-value]
    b_session.compute = lambda inputs: order.append("b") or double(inputs)  # type: ignore[func-returns-value]
    runs = [bench.engine.run_model(a, [tensor()]) for _ in range(3)]
    runs += [bench.engine.run_model(b, [tensor()]) for _ in range(3)]
    for run in runs:
        await run
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert set(a_session.threads[1:] + b_session.threads[1:]) == {"MainThread"}


@engine_test(inline_run_us=20_000)
async def test_a_model_that_turns_out_slow_goes_back_to_its_thread_for_good(bench: Bench) -> None:
    def busy(inputs: object) -> list[object]:
        until = time.thread_time() + 0.15
        while time.thread_time() < until:
            pass
        return [inputs[0]]  # type: ignore[index]

    loaded, session = await bench.load()
    await bench.engine.run_model(loaded, [tensor()])
    session.compute = busy
    await bench.engine.run_model(loaded, [tensor()])
    session.compute = double
    for _ in range(3):
        await bench.engine.run_model(loaded, [tensor()])
    assert session.threads == ["redisai CPU 1", "MainThread", *["redisai CPU 1"] * 3]
    assert not bench.engine.snapshot().models[0].inline


@engine_test(inline_run_us=HUGE_US)
async def test_models_on_a_gpu_or_with_a_minimum_batch_never_run_on_the_event_loop(bench: Bench) -> None:
    gpu, gpu_session = await bench.load("gpu", device=b"GPU")
    held, held_session = await bench.load("held", batch=4, min_batch=2)
    for _ in range(3):
        await bench.engine.run_model(gpu, [tensor()])
        await bench.engine.run_model(held, [tensor(2)])
    assert {*gpu_session.threads, *held_session.threads} == {"redisai GPU 1", "redisai CPU 1"}


@engine_test(inline_run_us=HUGE_US)
async def test_a_bad_request_fails_alone_on_the_event_loop_too(bench: Bench) -> None:
    def no_sevens(inputs: object) -> list[object]:
        array = inputs[0]  # type: ignore[index]
        if (array == 7).any():
            raise ValueError("seven")
        return [array]

    loaded, session = await bench.load(session=FakeSession(no_sevens), batch=8)
    await bench.engine.run_model(loaded, [tensor(4)])
    runs = [bench.engine.run_model(loaded, [tensor(1, float(i))]) for i in (6, 7, 8)]
    assert values(await runs[0]) == [[6.0, 6.0]]
    assert values(await runs[2]) == [[8.0, 8.0]]
    assert str(runs[1].error) == "ERR seven"
    assert session.threads[1:] == [threading.current_thread().name] * 4
