"""Runs through worker threads: results, batches, failures, order, fairness, limits. Waiting: test_engine_waits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from redisai_py.errors import BackendError, Overloaded
from tests.unit.engine.fakes import Bench, FakeSession, Order, double, engine_test, hold, scalar, tensor, values


@engine_test()
async def test_a_run_gives_the_models_outputs(bench: Bench) -> None:
    loaded, session = await bench.load()
    assert values(await bench.engine.run_model(loaded, [tensor(2, 3.0)])) == [[6.0, 6.0], [6.0, 6.0]]
    assert session.threads == ["redisai CPU 1"]
    assert loaded.inputs == ("x",)
    assert loaded.outputs == ("y",)


@engine_test()
async def test_runs_queued_behind_one_another_are_merged_and_split_again(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor(rows, float(rows))]) for rows in (1, 3, 2, 4)]
    await asyncio.sleep(0)  # the loop's iteration ends: what it collected is handed over
    session.gate.set()
    assert values(await first) == [[2.0, 2.0]]
    assert [values(await run) for run in runs] == [[[2.0 * rows] * 2] * rows for rows in (1, 3, 2, 4)]
    assert session.batches == [[(1, 2)], [(6, 2)], [(4, 2)]]
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.errors, stats.samples, stats.batches) == (5, 0, 11, 3)
    assert stats.batch_rows == {1: 1, 4: 1, 6: 1}
    assert stats.queue_time.count == 5
    assert stats.run_time.count == 3


@engine_test()
async def test_each_member_counts_the_whole_batchs_duration(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    first = await hold(bench, loaded, session)
    session.gate.set()
    await first
    one = bench.engine.stats.snapshot("m").duration_us
    bench.engine.stats.reset("m")
    first = await hold(bench, loaded, session)
    run = bench.engine.run_model(loaded, [tensor()])
    session.gate.set()
    await first
    await run
    assert one > 0
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.samples, stats.loads) == (2, 2, 1)


@engine_test()
async def test_a_model_without_batchsize_is_never_merged(bench: Bench) -> None:
    loaded, session = await bench.load()
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(3)]
    session.gate.set()
    for run in [first, *runs]:
        await run
    assert session.batches == [[(1, 2)]] * 4


def no_sevens(inputs: Any) -> list[Any]:
    if (inputs[0] == 7).any():
        raise BackendError("ERR seven")
    return [inputs[0] * 2]


@engine_test()
async def test_a_bad_request_fails_alone(bench: Bench) -> None:
    loaded, session = await bench.load(session=FakeSession(no_sevens), batch=8)
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor(1, float(i))]) for i in (6, 7, 8)]
    await asyncio.sleep(0)
    session.gate.set()
    await first
    assert values(await runs[0]) == [[12.0, 12.0]]
    assert values(await runs[2]) == [[16.0, 16.0]]
    with pytest.raises(BackendError, match="ERR seven"):
        await runs[1]
    assert session.batches == [[(1, 2)], [(3, 2)], [(1, 2)], [(1, 2)], [(1, 2)]]
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.errors, stats.samples, stats.last_error) == (4, 1, 3, "ERR seven")


@engine_test()
async def test_a_failure_that_is_no_backend_error_is_one_line_for_the_client(bench: Bench) -> None:
    def broken(inputs: Any) -> list[Any]:
        raise ValueError("two\nlines")

    loaded, _ = await bench.load(session=FakeSession(broken))
    with pytest.raises(BackendError, match=r"^ERR two lines$"):
        await bench.engine.run_model(loaded, [tensor()])


@engine_test()
async def test_an_output_that_is_no_array_is_an_error(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4)
    for output in ("y", [1.0, 2.0], 3.0):
        session.compute = lambda inputs, output=output: [output]
        first = await hold(bench, loaded, session)
        runs = [first, *(bench.engine.run_model(loaded, [tensor()]) for _ in range(2))]
        await asyncio.sleep(0)
        session.gate.set()
        for run in runs:
            with pytest.raises(BackendError, match=f"returned a {type(output).__name__} instead of an array"):
                await run


class Panic(BaseException):
    """What an extension written in Rust raises where its own code fails."""


@pytest.mark.parametrize("failure", [SystemExit, Panic])
@pytest.mark.parametrize("inline_run_us", [0, 1_000_000], ids=["thread", "event loop"])
def test_a_failure_that_would_end_a_thread_costs_one_request(failure: type[BaseException], inline_run_us: int) -> None:
    @engine_test(inline_run_us=inline_run_us)
    async def test(bench: Bench) -> None:
        loaded, session = await bench.load()
        await bench.engine.run_model(loaded, [tensor()])

        def broken(inputs: Any) -> list[Any]:
            raise failure("no more")

        session.compute = broken
        assert bench.engine.run_inline(loaded, [tensor()]) is None
        with pytest.raises(BackendError, match=r"^ERR no more$"):
            await bench.engine.run_model(loaded, [tensor()])
        session.compute = double
        assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]

    test()


def first_row(inputs: Any) -> list[Any]:
    return [np.ascontiguousarray(inputs[0][:1])]


@engine_test()
async def test_a_batch_with_too_few_rows_is_run_singly_and_the_model_is_not_merged_any_more(bench: Bench) -> None:
    loaded, session = await bench.load(session=FakeSession(first_row), batch=8)
    first = await hold(bench, loaded, session)
    one, two = (bench.engine.run_model(loaded, [tensor(rows)]) for rows in (1, 2))
    await asyncio.sleep(0)
    session.gate.set()
    await first
    assert values(await one) == [[1.0, 1.0]]
    assert values(await two) == [[1.0, 1.0]]
    assert "output 1 has the shape 1x2 for 3 rows" in loaded.proof.reason
    assert loaded.queue.max_rows == 0


@engine_test(auto_batch=4)
async def test_merging_unasked_stops_for_good_where_it_changes_results(bench: Bench) -> None:
    session = FakeSession(first_row)
    session.inputs = [type(session.inputs[0])("x", np.dtype("f4"), (None, 2))]
    loaded, _ = await bench.load(session=session)
    await bench.entered(session)  # the warm-up
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor(2, float(i))]) for i in range(2)]
    await asyncio.sleep(0)
    session.gate.set()
    await first
    assert [values(await run) for run in runs] == [[[0.0, 0.0]], [[1.0, 1.0]]]
    session.batches.clear()
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor(2)]) for _ in range(2)]
    await asyncio.sleep(0)
    session.gate.set()
    for run in [first, *runs]:
        await run
    assert session.batches == [[(1, 2)], [(2, 2)], [(2, 2)]]


@engine_test(auto_batch=4)
async def test_a_bad_request_does_not_end_merging_unasked_for_the_others(bench: Bench) -> None:
    session = FakeSession(no_sevens)
    session.inputs = [type(session.inputs[0])("x", np.dtype("f4"), (None, 2))]
    loaded, _ = await bench.load(session=session)
    for values_of_runs in ((6, 7), (6, 8)):
        session.batches.clear()
        session.entered = threading.Semaphore(0)  # the runs before have entered too
        first = await hold(bench, loaded, session)
        runs = [bench.engine.run_model(loaded, [tensor(1, float(i))]) for i in values_of_runs]
        await asyncio.sleep(0)
        session.gate.set()
        await asyncio.gather(first, *runs, return_exceptions=True)
    assert session.batches == [[(1, 2)], [(2, 2)]]


@engine_test(auto_batch=4)
async def test_models_with_a_dynamic_first_dimension_are_merged_where_the_setting_says_so(bench: Bench) -> None:
    session = FakeSession()
    session.inputs = [type(session.inputs[0])("x", np.dtype("f4"), (None, 2))]
    loaded, _ = await bench.load(session=session)
    await bench.entered(session)
    session.batches.clear()
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(5)]
    await asyncio.sleep(0)
    session.gate.set()
    for run in [first, *runs]:
        await run
    assert session.batches == [[(1, 2)], [(4, 2)], [(1, 2)]]


@engine_test()
async def test_inputs_that_cannot_be_merged_run_alone(bench: Bench) -> None:
    loaded, session = await bench.load(batch=8)
    first = await hold(bench, loaded, session)
    kinds = [scalar(1.0), scalar(2.0), tensor(1, columns=3), tensor(1), tensor(1, columns=3)]
    runs = [bench.engine.run_model(loaded, [kind]) for kind in kinds]
    await asyncio.sleep(0)
    session.gate.set()
    await first
    for run in runs:
        await run
    assert sorted(shapes[0] for shapes in session.batches[1:]) == [(), (), (1, 2), (2, 3)]
    assert values(await bench.engine.run_model(loaded, [scalar(4.0)])) == 8.0


@engine_test(queue_limit=3)
async def test_a_full_queue_refuses(bench: Bench) -> None:
    loaded, session = await bench.load()
    first = await hold(bench, loaded, session)
    runs = [first, *(bench.engine.run_model(loaded, [tensor()]) for _ in range(2))]
    with pytest.raises(Overloaded, match=r"^ERR the model's run queue is full: 3 runs"):
        await bench.engine.run_model(loaded, [tensor()])
    session.gate.set()
    for run in runs:
        await run
    await bench.engine.run_model(loaded, [tensor()])


@engine_test()
async def test_a_busy_model_does_not_starve_another_on_the_same_thread(bench: Bench) -> None:
    busy, busy_session = await bench.load("busy")
    other, other_session = await bench.load("other")
    order = Order()
    first = await hold(bench, busy, busy_session)
    waiting = [bench.engine.run_model(busy, [tensor()]) for _ in range(20)]
    rare = bench.engine.run_model(other, [tensor()])
    for name, run in [*(("busy", run) for run in waiting), ("other", rare)]:
        order.watch(name, run)
    await asyncio.sleep(0)
    busy_session.gate.set()
    await first
    assert (await order.all()).index("other") <= 1
    assert other_session.threads == busy_session.threads[:1]


@engine_test(threads_per_queue=2)
async def test_two_threads_run_two_models_at_once_but_one_session_never_twice(bench: Bench) -> None:
    a, a_session = await bench.load("a")
    b, b_session = await bench.load("b")
    held = [await hold(bench, a, a_session), await hold(bench, b, b_session)]
    more = [bench.engine.run_model(a, [tensor()]) for _ in range(3)]  # FakeSession fails if entered twice
    await asyncio.sleep(0)
    assert bench.engine.snapshot().queues["CPU"].running == 2
    b_session.gate.set()
    await held[1]
    assert len(a_session.batches) == 1
    a_session.gate.set()
    for run in [held[0], *more]:
        await run


@engine_test()
async def test_devices_have_threads_of_their_own(bench: Bench) -> None:
    a, a_session = await bench.load("a")
    b, b_session = await bench.load("b", device=b"cpu:1")
    held = await hold(bench, a, a_session)
    await bench.engine.run_model(b, [tensor()])
    assert b_session.threads == ["redisai CPU:1 1"]
    a_session.gate.set()
    await held
    names = list(bench.engine.snapshot().worker_cpu_s)
    assert names == ["ai_queue_CPU_bthread_n1_used_cpu_total", "ai_queue_CPU:1_bthread_n1_used_cpu_total"]
    assert all(seconds is None or seconds >= 0 for seconds in bench.engine.snapshot().worker_cpu_s.values())


@engine_test(threads_per_queue=1, device_threads={"CPU:1": 3})
async def test_single_devices_may_have_more_threads(bench: Bench) -> None:
    await bench.load("b", device=b"CPU:1")
    queues = bench.engine.snapshot().queues
    assert (queues["CPU"].threads, queues["CPU:1"].threads) == (1, 3)


@engine_test()
async def test_an_output_that_is_no_tensor_is_none_also_in_a_batch(bench: Bench) -> None:
    session = FakeSession(lambda inputs: [None, inputs[0]])
    session.outputs = ["map", "y"]
    loaded, _ = await bench.load(session=session, batch=4)
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    session.gate.set()
    await first
    for run in runs:
        outputs = await run
        assert outputs[0] is None
        assert outputs[1].shape == (1, 2)
    assert bench.engine.stats.snapshot("m").samples == 0


@engine_test()
async def test_only_a_gpu_model_is_asked_to_keep_its_outputs_and_its_runs_are_then_not_merged(bench: Bench) -> None:
    for device, batches, kept in ((b"GPU", [[(1, 2)]] * 3, [True] * 3), (b"CPU", [[(1, 2)], [(2, 2)]], [False] * 2)):
        loaded, session = await bench.load(device.decode(), device=device, batch=4)
        session.gate.clear()
        runs = [bench.engine.run_model(loaded, [tensor()], keep_on_device=True)]
        await bench.entered(session)
        runs += [bench.engine.run_model(loaded, [tensor()], keep_on_device=True) for _ in range(2)]
        await asyncio.sleep(0)
        session.gate.set()
        for run in runs:
            await run
        assert session.batches == batches
        assert session.kept == kept


@engine_test()
async def test_another_number_of_outputs_than_declared_is_an_error(bench: Bench) -> None:
    loaded, _ = await bench.load(session=FakeSession(lambda inputs: [inputs[0], inputs[0]]))
    with pytest.raises(BackendError, match=r"^ERR Model did not generate the expected number of outputs$"):
        await bench.engine.run_model(loaded, [tensor()])


@engine_test()
async def test_runs_not_counted_are_counted_when_asked(bench: Bench) -> None:
    loaded, _ = await bench.load()
    run = bench.engine.run_model(loaded, [tensor(3)], counted=False)
    await run
    assert bench.engine.stats.snapshot("m").calls == 0
    bench.engine.count(loaded, run)
    bench.engine.count(loaded, run)
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.samples, stats.errors) == (1, 3, 0)


@engine_test()
async def test_a_waiter_that_fails_does_not_keep_the_others_from_their_results(bench: Bench) -> None:
    loaded, session = await bench.load(batch=4)
    first = await hold(bench, loaded, session)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(2)]
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def fail(_: object) -> None:
        raise RuntimeError("mine")

    runs[0].waiter = fail
    session.gate.set()
    await first
    await runs[1]
    assert [str(failure["exception"]) for failure in failures] == ["mine"]
