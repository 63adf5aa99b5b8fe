"""`--isolation auto`: a busy event loop and an engine process share the runs of a short model. The engine alone: what
sends runs away from a busy loop, and keeps them on a busy machine, would make a server's test depend on the machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import psutil
import pytest

from redisai_py.engine.engine import Engine, EngineSettings, LoadedModel
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.pipes import offloading
from redisai_py.errors import BackendError, QueueTimeout
from redisai_py.model import Model
from redisai_py.tensor import Device, Tensor
from tests.support import suspend

make_models = pytest.importorskip("scripts.make_models")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

_RUNS = 48
_WAIT_S = 60.0


class _Crowd:
    """Runs that are asked for together, each with its own input."""

    def __init__(self, engine: Engine, loaded: LoadedModel, expected: list[Tensor], inputs: list[Tensor]) -> None:
        self.engine = engine
        self.loaded = loaded
        self.expected = expected
        self.inputs = inputs

    async def ask(self, timeout_ms: int | None = None) -> list[BaseException]:
        """Ask for all. Returns: the errors; every other result is the right one, to the bit."""
        runs = [self.engine.run_model(self.loaded, [x], timeout_ms) for x in self.inputs]
        found = await asyncio.gather(*runs, return_exceptions=True)
        errors = []
        for outputs, expected in zip(found, self.expected, strict=True):
            if isinstance(outputs, BaseException):
                errors.append(outputs)
            else:
                assert outputs == [expected]
        return errors

    async def ask_until(self, true: Callable[[], object]) -> None:
        """Ask again and again, without an error."""
        give_up = time.monotonic() + _WAIT_S
        while not true():
            assert time.monotonic() < give_up
            assert await self.ask() == []

    def pids(self) -> tuple[int, ...]:
        return self.engine.snapshot().isolation.pids

    def busy_s(self, pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def _with_sharing(monkeypatch: pytest.MonkeyPatch, test: Callable[[_Crowd, int], Awaitable[None]]) -> None:
    """A crowd whose model has moved into the server, and is computed by the process with that id too."""
    monkeypatch.setattr(offloading.LoopLoad, "look", lambda busy, now: True)
    monkeypatch.setattr(offloading, "granted_cores", lambda: 2.0)
    monkeypatch.setattr(offloading.OffloadShare, "of", lambda share, runs, waiting: runs // 2)

    async def run() -> None:
        settings = EngineSettings(intra_op_parallelism=1)
        isolation = Isolation(Manager(IsolationSettings("auto")), lambda identity: identity)
        engine = Engine(settings, asyncio.get_running_loop(), isolation=isolation)
        blob = make_models.BUILDERS["onnx_mlp.onnx"]()
        loaded = await engine.load(Model("m", "ONNX", Device.parse(b"CPU"), b"", 0, 0, 0, (), (), blob, identity="m"))
        rng = np.random.default_rng(7)
        inputs = [Tensor.from_numpy(rng.standard_normal((1, 784), np.float32)) for _ in range(_RUNS)]
        expected: list[Any] = [(await engine.run_model(loaded, [x]))[0] for x in inputs]
        crowd = _Crowd(engine, loaded, expected, inputs)
        try:
            await crowd.ask_until(lambda: not crowd.pids())
            await crowd.ask_until(crowd.pids)
            (pid,) = crowd.pids()
            await crowd.ask_until(lambda: crowd.busy_s(pid) > 0.1)
            await test(crowd, pid)
        finally:
            assert await engine.close(_WAIT_S)

    asyncio.run(run())


def test_both_compute_and_all_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(crowd: _Crowd, pid: int) -> None:
        before, busy_s = crowd.engine.stats.snapshot("m"), crowd.busy_s(pid)
        for _ in range(50):
            assert await crowd.ask() == []
        after = crowd.engine.stats.snapshot("m")
        assert (after.calls - before.calls, after.errors) == (50 * _RUNS, 0)
        assert after.batches - before.batches == 50 * _RUNS  # none were merged
        assert crowd.pids() == (pid,)
        assert crowd.busy_s(pid) > busy_s
        assert crowd.loaded.unfinished == 0

    _with_sharing(monkeypatch, test)


def test_a_process_that_ends_takes_at_most_one_run_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(crowd: _Crowd, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        errors = [error for _ in range(50) for error in await crowd.ask()]
        assert len(errors) <= 1
        for error in errors:
            assert isinstance(error, BackendError)
            assert str(error) == "ERR model 'm': its engine process died while running it (SIGKILL)"
        await crowd.ask_until(lambda: pid not in crowd.pids())

    _with_sharing(monkeypatch, test)


def test_a_process_that_stands_still_holds_up_only_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the others go on, and what waits there leaves at its TIMEOUT."""

    async def test(crowd: _Crowd, pid: int) -> None:
        suspend(pid)
        try:
            began = time.monotonic()
            held = asyncio.ensure_future(crowd.ask(timeout_ms=500))
            await asyncio.sleep(0.1)
            assert crowd.loaded.unfinished > 1
            while crowd.loaded.unfinished > 1:  # the one that it is at has begun, as far as is known
                await asyncio.sleep(0.01)
                assert time.monotonic() - began < _WAIT_S
            assert await crowd.engine.run_model(crowd.loaded, crowd.inputs[:1]) == crowd.expected[:1]
        finally:
            os.kill(pid, signal.SIGCONT)
        errors = await held
        assert errors
        assert all(isinstance(error, QueueTimeout) for error in errors)

    _with_sharing(monkeypatch, test)


def test_a_process_that_is_not_used_any_more_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(crowd: _Crowd, pid: int) -> None:
        runs = crowd.engine._runner._dispatcher._offloader
        assert runs is not None
        runs._look()
        assert await crowd.ask() == []
        assert crowd.pids() == (pid,)
        with monkeypatch.context() as later:
            later.setattr(offloading, "_UNUSED_S", 0.0)
            runs._look()
        give_up = time.monotonic() + _WAIT_S
        while crowd.pids():
            await asyncio.sleep(0.05)
            assert time.monotonic() < give_up
        await crowd.ask_until(crowd.pids)

    _with_sharing(monkeypatch, test)
