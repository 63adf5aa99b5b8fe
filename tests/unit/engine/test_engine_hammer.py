"""Everything at once, at random: short deadlines, cancelled runs, bad requests, models unloaded and evicted."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from redisai_py.backend import InputSpec
from redisai_py.engine.engine import LoadedModel
from redisai_py.errors import BackendError, DeadlineExceeded, RedisAIError
from redisai_py.tensor import Tensor
from tests.unit.engine.fakes import Bench, FakeSession, engine_test, model, tensor

RUNS_PER_CLIENT = 60


def checked(inputs: object) -> list[object]:
    array = inputs[0]  # type: ignore[index]
    if (array < 0).any():
        raise BackendError("ERR negative")
    return [array * 2]


class Client:
    """Asks for runs of random models, one after the other, and checks each outcome."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.ended = 0

    async def session_of(self, name: str) -> LoadedModel:
        session = FakeSession(checked)
        session.inputs = [InputSpec("x", np.dtype("f4"), (None, 2))]
        self.bench.backend.sessions[name.encode()] = session  # a closed session is never run again
        batch = {"a": 0, "b": 8, "c": 8}[name[0]]
        return await self.bench.engine.load(model(name, batch=batch, min_batch=4 * (name[0] == "c"), min_wait_ms=1))

    async def run(self) -> None:
        for _ in range(RUNS_PER_CLIENT):
            name = self.random.choice("abc") + str(self.random.randrange(2))
            loaded = self.bench.engine.loaded(name) or await self.session_of(name)
            await self.one(loaded)
            if self.random.random() < 0.02:
                self.bench.engine.unload(name)

    async def one(self, loaded: LoadedModel) -> None:
        value = self.random.choice([-1.0, 1.0, 2.0, 3.0, 4.0])
        timeout_ms = self.random.choice([None, None, 0, 1, 1000])
        run = self.bench.engine.run_model(loaded, [tensor(self.random.choice([1, 2, 9]), value)], timeout_ms)
        if self.random.random() < 0.2:
            await asyncio.sleep(0)
            run.cancel_queued()
        try:
            (output,) = await run
        except asyncio.CancelledError:
            assert run.done  # the run's end, not the task's
        except RedisAIError as error:
            self.check_failure(error, value)
        else:
            assert isinstance(output, Tensor)
            assert value > 0
            assert (output.numpy() == 2 * value).all()
        self.ended += 1

    def check_failure(self, error: RedisAIError, value: float) -> None:
        assert isinstance(error, DeadlineExceeded) or (str(error), value) == ("ERR negative", -1.0)


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let the interpreter change threads after nearly every step: what may happen in between then does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inline_run_us", [0, 5000])
def test_every_run_ends_once_and_rightly(seed: int, threads: int, inline_run_us: int, eager_switching: None) -> None:
    @engine_test(threads_per_queue=threads, inline_run_us=inline_run_us, auto_batch=4, loaded_models_limit_bytes=350)
    async def hammer(bench: Bench) -> None:
        clients = [Client(bench, 100 * seed + i) for i in range(10)]
        await asyncio.gather(*(client.run() for client in clients))
        assert [client.ended for client in clients] == [RUNS_PER_CLIENT] * 10
        assert all(queue.waiting == 0 for queue in bench.engine.snapshot().queues.values())

    hammer()
