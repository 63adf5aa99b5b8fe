"""The engine with a real framework: results under load from many tasks, on threads and on the event loop."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from redisai_py.engine.engine import Engine, EngineSettings
from redisai_py.errors import BackendError, RunTimeout
from redisai_py.model import Model
from redisai_py.tensor import Device, Tensor
from tests.unit.engine.fakes import WAIT_S

onnx_backend = pytest.importorskip("redisai_py_onnx")
make_models = pytest.importorskip("scripts.make_models")
pytest.importorskip("onnx")


def stored(name: str, blob: bytes, batch: int = 0) -> Model:
    return Model(name, "ONNX", Device.parse(b"CPU"), b"", batch, 0, 0, (), (), blob, identity=name)


def engine(**settings: int) -> Engine:
    backend = onnx_backend.OnnxBackend()
    return Engine(EngineSettings(intra_op_parallelism=1, **settings), asyncio.get_running_loop(), lambda name: backend)


@pytest.mark.parametrize("inline_run_us", [0, 300], ids=["threads", "event loop"])
@pytest.mark.parametrize("batch", [0, 8], ids=["single", "merged"])
def test_every_client_gets_its_own_result(inline_run_us: int, batch: int) -> None:
    async def client(served: Engine, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            rows = rng.choice([1, 1, 1, 2, 5, 8, 20])
            wrong = rng.random() < 0.1
            values = np.full((rows, 3 if wrong else 2), rng.random(), np.float32)
            loaded = served.loaded("m")
            assert loaded is not None
            run = served.run_model(loaded, [Tensor.from_numpy(values)], timeout_ms=rng.choice([None, 5000]))
            if wrong:
                with pytest.raises(BackendError, match="invalid dimensions"):
                    await run
            else:
                (output,) = await run
                assert isinstance(output, Tensor)
                assert np.array_equal(output.numpy(), values * 2)

    async def run() -> None:
        served = engine(inline_run_us=inline_run_us)
        loaded = await served.load(stored("m", make_models.build_onnx_mul(), batch))
        await asyncio.gather(*(client(served, seed) for seed in range(30)))
        stats = served.stats.snapshot("m")
        assert stats.calls == 600
        assert 0 < stats.errors < 200
        assert (stats.batches < stats.calls - stats.errors) == bool(batch)
        assert loaded.unfinished == 0
        assert await served.close(WAIT_S)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_tiny_model_comes_to_run_on_the_event_loop() -> None:
    async def run() -> None:
        served = engine(inline_run_us=100_000)
        loaded = await served.load(stored("m", make_models.build_onnx_mul()))
        assert not loaded.inline.short_rows
        await served.run_model(loaded, [Tensor.from_numpy(np.zeros((1, 2), np.float32))])
        assert loaded.inline.short_rows == {_kind(): 1}
        assert await served.close(WAIT_S)

    asyncio.run(run())


def _kind() -> object:
    from redisai_py.engine.merging import signature

    return signature([Tensor.from_numpy(np.zeros((1, 2), np.float32))])[1]


def test_a_long_run_is_terminated() -> None:
    async def run() -> None:
        served = engine(model_execution_timeout_ms=50)
        loaded = await served.load(stored("heavy", make_models.build_onnx_heavy(200_000)))
        shape = [dim or 1 for dim in loaded.session.inputs[0].shape or ()]
        started = asyncio.get_running_loop().time()
        with pytest.raises(RunTimeout, match="MODEL_EXECUTION_TIMEOUT of 50 ms"):
            await served.run_model(loaded, [Tensor.from_numpy(np.zeros(shape, np.float32))])
        assert asyncio.get_running_loop().time() - started < 5
        assert await served.close()
        assert loaded.unfinished == 0

    asyncio.run(asyncio.wait_for(run(), 20))


def test_input_and_output_names_come_from_the_model() -> None:
    async def run() -> None:
        served = engine()
        loaded = await served.load(stored("m", make_models.build_onnx_add()))
        assert (loaded.inputs, loaded.outputs) == (("a", "b"), ("c",))
        assert (loaded.model.inputs, loaded.model.outputs) == (("a", "b"), ("c",))
        assert await served.close(WAIT_S)

    asyncio.run(run())
