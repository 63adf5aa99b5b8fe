"""Loading, evicting, unloading and shutting down."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from redisai_py.backend import InputSpec
from redisai_py.engine.engine import Engine, EngineSettings
from redisai_py.errors import BackendError, BackendNotInstalled, Overloaded
from tests.unit.engine.fakes import WAIT_S, Bench, FakeBackend, FakeSession, engine_test, model, tensor, values


async def closed(session: FakeSession) -> bool:
    """Whether the session is closed within the bound of all waits."""
    return await asyncio.to_thread(session.closed.wait, WAIT_S)


@engine_test()
async def test_calls_for_one_id_share_one_load(bench: Bench) -> None:
    bench.backend.sessions[b"m"] = FakeSession()
    first, second = await asyncio.gather(bench.engine.load(model()), bench.engine.load(model()))
    third = await bench.engine.load(model())
    assert first is second is third is bench.engine.loaded("m")
    assert bench.backend.loads == 1
    assert first.model.blob == b""
    assert first.model.inputs == ("x",)


@engine_test()
async def test_a_model_that_cannot_be_loaded_says_why_to_everyone_and_may_be_tried_again(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.engine.load(model()) for _ in range(2)), return_exceptions=True)
    assert [str(result) for result in results] == ["ERR not a model"] * 2
    assert bench.engine.loaded("m") is None
    bench.backend.sessions[b"m"] = FakeSession()
    await bench.engine.load(model())


@engine_test()
async def test_a_device_that_is_not_there_is_refused_at_load(bench: Bench) -> None:
    bench.backend.sessions[b"m"] = FakeSession()
    with pytest.raises(BackendError, match="no such GPU"):
        await bench.engine.load(model(device=b"GPU:9"))
    assert list(bench.engine.snapshot().queues) == ["CPU"]


@engine_test()
async def test_device_strings_are_bounded_since_each_has_threads(bench: Bench) -> None:
    """Anybody may write `CPU:12345` into a model."""
    for number in range(63):
        await bench.load(f"m{number}", device=b"CPU:%d" % number)
    with pytest.raises(BackendError, match="Could not initialize queue on requested device"):
        await bench.load("one more", device=b"CPU:63")
    await bench.load("as before", device=b"CPU:5")


@contextmanager
def no_thread(name: str) -> Iterator[None]:
    """The system gives no thread of that name."""
    start = threading.Thread.start

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_or_not)
        yield


@engine_test(load_threads=1)
async def test_a_load_that_got_no_thread_may_be_tried_again(bench: Bench) -> None:
    with no_thread("redisai loader 1"), pytest.raises(RuntimeError):
        await bench.load()
    loaded, _ = await bench.load()
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]


@engine_test()
async def test_one_thread_loads_where_no_second_one_is_to_be_had(bench: Bench) -> None:
    await bench.load("first")
    with no_thread("redisai loader 2"):
        loaded, _ = await bench.load("second")
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]


@engine_test(threads_per_queue=2)
async def test_a_device_that_gets_no_threads_is_refused_and_nothing_is_left(bench: Bench) -> None:
    session = FakeSession()
    refused = pytest.raises(BackendError, match=r"^ERR Could not initialize queue on requested device$")
    with no_thread("redisai CPU:7 2"), refused:
        await bench.load("m", session, device=b"CPU:7")
    assert await closed(session)
    loaded, _ = await bench.load("later", device=b"CPU:7")
    assert values(await bench.engine.run_model(loaded, [tensor()])) == [[2.0, 2.0]]


def test_a_backend_that_is_not_installed_is_a_clear_error() -> None:
    async def run() -> None:
        engine = Engine(EngineSettings(), asyncio.get_running_loop())
        with pytest.raises(BackendNotInstalled, match="FAKE"):
            await engine.load(model())
        assert await engine.close(WAIT_S)

    asyncio.run(run())


@engine_test()
async def test_known_shapes_are_warmed_up_with_zeros_and_a_failing_warm_up_is_no_error(bench: Bench) -> None:
    def refuse(inputs: object) -> list[object]:
        raise BackendError("ERR zeros")

    session = FakeSession(refuse)
    session.inputs = [InputSpec("x", np.dtype("f4"), (None, 3)), InputSpec("s", np.dtype(object), (2,))]
    await bench.load(session=session)
    assert session.batches == [[(1, 3), (2,)]]
    assert session.threads[0].startswith("redisai loader")
    assert bench.engine.stats.snapshot("m").calls == 0


@engine_test()
async def test_unknown_shapes_are_not_warmed_up(bench: Bench) -> None:
    _, session = await bench.load()
    assert session.batches == []


@engine_test(loaded_models_limit_bytes=250)
async def test_the_least_recently_used_model_goes_first(bench: Bench) -> None:
    loaded, a = await bench.load("a")
    b = (await bench.load("b"))[1]
    await bench.engine.run_model(loaded, [tensor()])
    await bench.load("c")
    assert await closed(b)
    assert bench.engine.loaded("b") is None
    assert [m.model_id for m in bench.engine.snapshot().models] == ["a", "c"]
    assert bench.engine.snapshot().loaded_bytes == 200
    assert not a.closed.is_set()
    await bench.engine.load(model("a"))
    b.closed.clear()
    await bench.load("b")
    assert bench.engine.stats.snapshot("b").loads == 2


@engine_test(loaded_models_limit_bytes=150)
async def test_a_model_with_unfinished_runs_stays_until_they_end(bench: Bench) -> None:
    a, a_session = await bench.load("a")
    a_session.gate.clear()
    run = bench.engine.run_model(a, [tensor()])
    del a
    await bench.entered(a_session)
    await bench.load("b")
    assert bench.engine.snapshot().loaded_bytes == 200
    assert bench.engine.loaded("a") is not None
    assert bench.engine.loaded("b") is not None
    assert not a_session.closed.is_set()
    a_session.gate.set()
    assert values(await run) == [[2.0, 2.0]]
    assert await closed(a_session)
    assert [m.model_id for m in bench.engine.snapshot().models] == ["b"]


@engine_test()
async def test_runs_queued_before_an_unload_end_with_the_old_model_which_is_then_closed_on_its_thread(
    bench: Bench,
) -> None:
    gc.disable()  # reference counting alone must do it
    try:
        loaded, session = await bench.load()
        session.gate.clear()
        runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(3)]
        await bench.entered(session)
        bench.engine.unload("m")
        assert bench.engine.loaded("m") is None
        runs.append(bench.engine.run_model(loaded, [tensor()]))  # looked up before, run after
        del loaded
        session.gate.set()
        for run in runs:
            await run
        assert await closed(session)
        assert bench.engine.stats.snapshot("m").calls == 0
    finally:
        gc.enable()


@engine_test()
async def test_a_failed_run_does_not_keep_the_model(bench: Bench) -> None:
    def fail(inputs: object) -> list[object]:
        raise ValueError("no")

    gc.disable()
    try:
        loaded, session = await bench.load(session=FakeSession(fail))
        run = bench.engine.run_model(loaded, [tensor()])
        with pytest.raises(BackendError, match="ERR no"):
            await run
        bench.engine.unload("m")
        del loaded
        assert await closed(session)
    finally:
        gc.enable()


@engine_test()
async def test_counters_begin_anew_after_unload_and_reset(bench: Bench) -> None:
    loaded, _ = await bench.load()
    await bench.engine.run_model(loaded, [tensor(2)])
    assert bench.engine.stats.snapshot("m").samples == 2
    bench.engine.stats.reset("m")
    assert bench.engine.stats.snapshot("m").calls == 0
    assert bench.engine.stats.snapshot("m").loads == 1
    bench.engine.unload("m")
    bench.engine.stats.reset("m")
    assert bench.engine.stats.snapshot("m").loads == 0


def test_close_finishes_what_waits_then_ends_every_thread() -> None:
    before = set(threading.enumerate())

    async def run() -> None:
        bench = Bench(threads_per_queue=2)
        loaded, session = await bench.load()
        session.gate.clear()
        runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(3)]
        await bench.entered(session)
        closing = asyncio.create_task(bench.engine.close(WAIT_S))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"^ERR the server is shutting down$"):
            await bench.engine.run_model(loaded, [tensor()])
        with pytest.raises(Overloaded, match=r"^ERR the server is shutting down$"):
            await bench.engine.load(model("other"))
        session.gate.set()
        for queued in runs:
            assert values(await queued) == [[2.0, 2.0]]
        assert await closing
        assert session.closed.is_set()

    asyncio.run(run())
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("redisai")]


def test_close_stops_what_does_not_end_in_time() -> None:
    before = set(threading.enumerate())

    async def run() -> None:
        bench = Bench()
        loaded, session = await bench.load()
        held, held_session = await bench.load("held", batch=4, min_batch=4)
        session.gate.clear()
        running = bench.engine.run_model(loaded, [tensor()])
        queued = bench.engine.run_model(loaded, [tensor()])
        parked = bench.engine.run_model(held, [tensor()])
        await bench.entered(session)
        assert await bench.engine.close(0.02)
        for ended in (running, queued, parked):
            with pytest.raises(Overloaded, match="shutting down"):
                await ended
        assert session.closed.is_set()
        assert held_session.closed.is_set()

    asyncio.run(run())
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("redisai")]


@engine_test()
async def test_a_plugin_that_breaks_its_contract_fails_the_load_only(bench: Bench) -> None:
    session = FakeSession()
    session.inputs = [InputSpec("x", np.dtype("f4"), (-3,))]
    with pytest.raises(BackendError, match=r"^ERR "):
        await bench.load(session=session)
    session = FakeSession()
    session.nbytes = None  # type: ignore[assignment]
    with pytest.raises(BackendError, match=r"^ERR "):
        await bench.load("sized", session=session)
    await bench.load("other")


@engine_test()
async def test_a_plugin_that_ends_its_thread_fails_the_load_only(bench: Bench) -> None:
    def find(name: str) -> FakeBackend:
        raise SystemExit("no licence")

    engine = Engine(EngineSettings(load_threads=1), asyncio.get_running_loop(), find)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"^ERR no licence$"):
            await engine.load(model())
    assert await engine.close(WAIT_S)


@engine_test()
async def test_the_engine_is_there_for_a_backend_found_by_name(bench: Bench) -> None:
    asked: list[str] = []

    def find(name: str) -> FakeBackend:
        asked.append(name)
        return bench.backend

    bench.backend.sessions[b"m"] = FakeSession()
    engine = Engine(EngineSettings(), asyncio.get_running_loop(), find)
    await engine.load(model())
    assert asked == ["FAKE"]
    assert await engine.close()
