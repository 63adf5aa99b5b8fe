"""Runs on their way to an engine process through a pipe that ends. The engine alone, with a real process."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from redisai_py.engine.engine import Engine, EngineSettings
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.model import Model
from redisai_py.tensor import Device, Tensor
from tests.support import suspend
from tests.waiting import until

make_models = pytest.importorskip("scripts.make_models")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_a_run_that_waits_for_a_pipe_is_executed_though_all_before_it_had_ended_with_the_pipe() -> None:
    async def run() -> None:
        isolation = Isolation(Manager(IsolationSettings("all")), lambda identity: identity)
        engine = Engine(EngineSettings(threads_per_queue=1), asyncio.get_running_loop(), isolation=isolation)
        blob = make_models.BUILDERS["onnx_mlp.onnx"]()
        loaded = await engine.load(Model("m", "ONNX", Device.parse(b"CPU"), b"", 0, 0, 0, (), (), blob, identity="m"))
        try:
            x = Tensor.from_numpy(np.zeros((1, 784), np.float32))
            (pid,) = engine.snapshot().isolation.pids
            suspend(pid)
            first, second = (engine.run_model(loaded, [x]) for _ in range(2))
            pipes = engine._runner._pipes
            assert pipes is not None
            while not pipes._lines:  # noqa: ASYNC110 - the engine sends runs in the next iteration of the loop
                await asyncio.sleep(0.001)
            (line,) = pipes._lines
            assert (len(line.pipe.flights), len(line.model.queue)) == (1, 1)

            # The event loop sees nothing of this: the first run ends, and the process, before it could ring.
            os.kill(pid, signal.SIGCONT)
            until(lambda: line.pipe.ended_number == 1)
            until(line.pipe._hear, not_yet=(BlockingIOError,))
            os.kill(pid, signal.SIGKILL)

            results = await asyncio.wait_for(asyncio.gather(first, second), 20)
            assert results[0] == results[1]
            assert loaded.unfinished == 0
        finally:
            assert await engine.close(60)

    asyncio.run(run())
