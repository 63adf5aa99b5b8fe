"""Loads that do not end: another thread takes the place of theirs."""

from __future__ import annotations

import asyncio
import threading

from redisai_py.engine.loader import Loader
from redisai_py.engine.reports import GivenUp
from redisai_py.engine.runaways import Runaways
from tests.unit.engine.fakes import WAIT_S, model


def test_a_load_that_does_not_end_is_given_up_and_others_go_on() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[GivenUp] = asyncio.Queue()
        loader = Loader(1, lambda: None)
        runaways = Runaways(loop, loader, told.put_nowait, load_patience_s=0.1)
        ends, loaded = threading.Event(), asyncio.Event()
        stuck = model("stuck")

        def load() -> None:
            loop.call_soon_threadsafe(runaways.load_began, (stuck, threading.current_thread()))
            ends.wait()

        loader.submit(load)
        loader.submit(lambda: loop.call_soon_threadsafe(loaded.set))
        given_up = await asyncio.wait_for(told.get(), WAIT_S)
        assert (given_up.model.identity, given_up.loading, given_up.going_on) == ("stuck", True, 1)
        await asyncio.wait_for(loaded.wait(), WAIT_S)  # by the thread in its place
        assert runaways.going_on == 1
        ends.set()
        runaways.load_ended(stuck.identity)
        assert runaways.going_on == 0
        loader.stop()

    asyncio.run(scenario())


def test_a_load_that_ends_in_time_is_no_runaway() -> None:
    async def scenario() -> None:
        told: list[GivenUp] = []
        runaways = Runaways(asyncio.get_running_loop(), Loader(1, lambda: None), told.append, load_patience_s=0.05)
        runaways.load_began((model("m"), threading.current_thread()))
        runaways.load_ended("m")
        await asyncio.sleep(0.15)
        assert not told
        assert runaways.going_on == 0

    asyncio.run(scenario())


def test_a_load_in_an_engine_process_is_no_runaway_and_others_go_on_soon() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        told: list[GivenUp] = []
        loader = Loader(1, lambda: None)
        runaways = Runaways(loop, loader, told.append, isolated=True)
        ends, loaded = threading.Event(), asyncio.Event()

        def load() -> None:
            loop.call_soon_threadsafe(runaways.load_began, (model("stuck"), threading.current_thread()))
            ends.wait()

        loader.submit(load)
        loader.submit(lambda: loop.call_soon_threadsafe(loaded.set))
        await asyncio.wait_for(loaded.wait(), WAIT_S)  # by a thread beside it
        assert runaways.going_on == 0
        assert not told
        ends.set()
        runaways.load_ended("stuck")
        loader.stop()

    asyncio.run(scenario())
