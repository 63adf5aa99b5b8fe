"""Models of keys that many commands meet at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from redisai_py.ai.model_loading import Timeout
from redisai_py.backend import InputSpec
from redisai_py.engine.stats import StatsTable
from redisai_py.errors import BackendError, QueueTimeout, UpstreamError
from redisai_py.model import Kind, Model, identified
from redisai_py.ops.event_log import EventLog
from redisai_py.ops.keymap import KeyMap, ProgramKey
from redisai_py.ops.programs import Programs
from redisai_py.pending import Pending
from redisai_py.store.store import Store
from tests.unit.engine.fakes import WAIT_S, Bench, FakeSession, engine_test, model, tensor

PLACE = ProgramKey(Kind.MODEL, 0, b"k")


class FakeStore:
    """Gives what the test says, when it says so."""

    def __init__(self) -> None:
        self.asked: list[Pending[Model]] = []

    async def model_with_blob(self, key: bytes) -> Model:
        self.asked.append(Pending())
        return await self.asked[-1]


def _loading(bench: Bench) -> Programs:
    keys = KeyMap()
    return Programs(bench.engine, StatsTable(), keys, EventLog(keys, 0))


async def _start(loading: Programs, store: FakeStore, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(loading.load_stored(PLACE, "m", cast(Store, store))) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@engine_test()
async def test_the_blob_is_read_once_for_all(bench: Bench) -> None:
    bench.backend.sessions[b"m"] = FakeSession()
    loading, store = _loading(bench), FakeStore()
    tasks = await _start(loading, store, 3)
    assert len(store.asked) == 1
    store.asked[0].resolve(model())
    tasks += await _start(loading, store, 1)  # while it is being loaded
    loaded = await asyncio.gather(*tasks)
    assert [each.model.id for each in loaded] == ["m"] * 4
    assert len({id(each) for each in loaded}) == 1
    assert (len(store.asked), bench.backend.loads) == (1, 1)


@engine_test()
async def test_a_model_that_does_not_load_says_so_to_all(bench: Bench) -> None:
    loading, store = _loading(bench), FakeStore()
    tasks = await _start(loading, store, 3)
    store.asked[0].resolve(model())
    for task in tasks:
        with pytest.raises(BackendError, match="ERR not a model"):
            await task
    (again,) = await _start(loading, store, 1)
    assert len(store.asked) == 2
    again.cancel()


@pytest.mark.parametrize("trouble", [UpstreamError("ERR lost"), asyncio.CancelledError()], ids=["lost", "gone"])
def test_where_the_reader_has_trouble_of_its_own_another_one_reads(trouble: BaseException) -> None:
    @engine_test()
    async def test(bench: Bench) -> None:
        bench.backend.sessions[b"m"] = FakeSession()
        loading, store = _loading(bench), FakeStore()
        first, *others = await _start(loading, store, 3)
        store.asked[0].fail(trouble)
        with pytest.raises(type(trouble)):
            await first
        await asyncio.sleep(0)
        assert len(store.asked) == 2
        store.asked[1].resolve(model())
        assert [each.model.id for each in await asyncio.gather(*others)] == ["m", "m"]
        assert len(store.asked) == 2

    test()


@pytest.mark.parametrize("while_it_is", ["read", "loaded"])
def test_a_model_stored_while_the_old_one_is_met_stays(while_it_is: str) -> None:
    """Whoever waits for the old one has it, and then it is gone, and nothing of the new one is."""

    @engine_test()
    async def test(bench: Bench) -> None:
        old = bench.backend.sessions[b"m"] = FakeSession()
        old.inputs = [InputSpec("x", np.dtype("f4"), (None, 2))]  # so that it is warmed up
        old.gate.clear()
        bench.backend.sessions[b"new"] = FakeSession()
        loading, store = _loading(bench), FakeStore()
        (task,) = await _start(loading, store, 1)
        stored = model("new")
        loaded = await loading.load(PLACE, stored)
        if while_it_is == "read":
            loading.record(PLACE, stored)
        store.asked[0].resolve(model())
        await bench.entered(old)
        if while_it_is == "loaded":
            loading.record(PLACE, stored)
        await bench.engine.run_model(loaded, [tensor()])
        old.gate.set()
        assert (await task).model.id == "m"
        del task
        assert bench.engine.loaded("new") is loaded
        assert bench.engine.stats.snapshot("new").calls == 1
        assert bench.engine.loaded(identified(model()).identity) is None
        assert await asyncio.to_thread(old.closed.wait, WAIT_S)

    test()


@engine_test()
async def test_a_model_that_another_server_stored_takes_the_place_of_the_old_one(bench: Bench) -> None:
    for blob in (b"m", b"old"):
        bench.backend.sessions[blob] = FakeSession()
    loading, store = _loading(bench), FakeStore()
    old = await loading.load(PLACE, model("old"))
    loading.record(PLACE, model("old"))
    await bench.engine.run_model(old, [tensor()])
    (task,) = await _start(loading, store, 1)
    store.asked[0].resolve(model())
    assert await task is bench.engine.loaded(identified(model()).identity)
    assert bench.engine.loaded("old") is None
    assert bench.engine.stats.snapshot("old").calls == 0


@engine_test()
async def test_timeout_passes_while_a_model_is_loaded_which_goes_on(bench: Bench) -> None:
    bench.backend.sessions[b"m"] = FakeSession()
    loading, store = _loading(bench), FakeStore()
    loop = asyncio.get_running_loop()
    impatient = Timeout(20)
    with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
        await impatient.wait_for(loading.load_stored(PLACE, "m", cast(Store, store)), loop)
    patient = asyncio.create_task(Timeout(5000).wait_for(loading.load_stored(PLACE, "m", cast(Store, store)), loop))
    await asyncio.sleep(0)
    store.asked[0].resolve(model())
    assert (await patient).model.id == "m"
    assert (len(store.asked), bench.backend.loads) == (1, 1)


@engine_test()
async def test_waiting_for_a_model_takes_from_the_time_in_the_queue(bench: Bench) -> None:
    async def slow() -> Any:
        await asyncio.sleep(0.02)
        return "loaded"

    loop = asyncio.get_running_loop()
    patience = Timeout(5000)
    assert patience.left_ms == 5000
    assert await patience.wait_for(slow(), loop) == "loaded"
    assert patience.left_ms is not None
    assert 4000 < patience.left_ms <= 4980
    assert Timeout(None).left_ms is None
