"""A model whose process has died under its runs is unloaded as soon as nobody needs it any more: nothing that failed
keeps it until the next collection of garbage, which an idle server may never do.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from redisai_py.engine.engine import Engine, EngineSettings, LoadedModel
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.errors import BackendError
from redisai_py.model import Model
from redisai_py.tensor import Device, Tensor

make_models = pytest.importorskip("scripts.make_models")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

_WAIT_S = 20.0


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("runs", [1, 40])
def test_nothing_keeps_a_model_whose_process_died(no_collections: None, runs: int) -> None:
    x = Tensor.from_numpy(np.ones((1, 784), np.float32))
    blob = make_models.BUILDERS["onnx_mlp.onnx"]()

    async def use(engine: Engine, isolation: Isolation, identity: str, wait_s: float) -> None:
        model = Model("m", "ONNX", Device.parse(b"CPU"), b"", 0, 0, 0, (), (), blob, identity=identity)
        loaded = await engine.load(model)
        await engine.run_model(loaded, [x])
        with suppress(ProcessLookupError):
            os.kill(isolation.snapshot().pids[0], signal.SIGKILL)
        await asyncio.sleep(wait_s)  # so that the runs meet the dying process at different points
        for result in await asyncio.gather(*(ask(engine, loaded) for _ in range(runs)), return_exceptions=True):
            assert isinstance(result, list | BackendError), result

    async def ask(engine: Engine, loaded: LoadedModel) -> object:
        return await engine.run_model(loaded, [x])

    async def test() -> None:
        isolation = Isolation(Manager(IsolationSettings("all")), lambda identity: identity)
        engine = Engine(EngineSettings(), asyncio.get_running_loop(), isolation=isolation)
        try:
            for number in range(10):
                await use(engine, isolation, f"m{number}", number * 0.0002)
                engine.unload(f"m{number}")
                give_up = time.monotonic() + _WAIT_S
                while isolation.snapshot().pids:
                    await asyncio.sleep(0.01)
                    assert time.monotonic() < give_up, f"round {number}"
        finally:
            assert await engine.close(_WAIT_S)

    asyncio.run(test())
