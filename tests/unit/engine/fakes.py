"""A backend whose runs the test holds and releases, and an engine around it. Events order the threads, not time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from redisai_py.backend import Array, InputSpec, LoadOptions
from redisai_py.engine.engine import Engine, EngineSettings, Run
from redisai_py.errors import BackendError
from redisai_py.model import Model
from redisai_py.tensor import Device, DType, Tensor

WAIT_S = 30.0
"""Upper bound of every wait: reached only if a test fails."""


def double(inputs: Sequence[Any]) -> list[Any]:
    """The model of most tests: y = 2 x."""
    return [inputs[0] * 2]


class FakeSession:
    """y = 2 x, or whatever `compute` says. While `gate` is closed, a run waits at it; `terminate` opens it."""

    def __init__(self, compute: Callable[[Sequence[Any]], list[Any]] = double, nbytes: int = 100) -> None:
        self.inputs: Sequence[InputSpec] = [InputSpec("x", None, None)]
        self.outputs: Sequence[str] = ["y"]
        self.nbytes = nbytes
        self.compute = compute
        self.can_stop = True
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        """Released by every run when it begins."""
        self.closed = threading.Event()
        self.batches: list[list[tuple[int, ...]]] = []
        """Shapes of the inputs of every run."""
        self.threads: list[str] = []
        self.kept: list[bool] = []
        """Whether each run was asked to keep its outputs on the device."""
        self._stopped = threading.Event()
        self._inside = threading.Lock()

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Any]:
        assert self._inside.acquire(blocking=False), "a session was entered twice"
        try:
            assert not self.closed.is_set()
            self.batches.append([tuple(array.shape) for array in inputs])
            self.kept.append(keep_on_device)
            self.threads.append(threading.current_thread().name)
            self.entered.release()
            assert self.gate.wait(WAIT_S)
            if self._stopped.is_set():
                raise BackendError("stopped by terminate")
            return self.compute(inputs)
        finally:
            self._stopped.clear()
            self._inside.release()

    def terminate(self) -> bool:
        if self.can_stop:
            self._stopped.set()
            self.gate.set()
        return self.can_stop

    def close(self) -> None:
        self.closed.set()


@dataclass
class FakeBackend:
    """Gives the sessions that the test made, by the model's blob."""

    name: str = "FAKE"
    version: str = "1"
    sessions: dict[bytes, FakeSession] = field(default_factory=dict)
    loads: int = 0

    def check_device(self, device: Device) -> None:
        if device.kind == "GPU" and device.index == 9:
            raise BackendError("ERR no such GPU")

    def load_model(
        self, blob: bytes, device: Device, inputs: Sequence[str], outputs: Sequence[str], options: LoadOptions
    ) -> FakeSession:
        self.loads += 1
        if blob not in self.sessions:
            raise BackendError("ERR not a model")
        return self.sessions[blob]


class Bench:
    """An engine over a FakeBackend."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("inline_run_us", 0)
        settings.setdefault("merge_checks", 0)  # what proves itself has tests of its own
        self.backend = FakeBackend()
        self.engine = Engine(EngineSettings(**settings), asyncio.get_running_loop(), lambda name: self.backend)

    async def load(self, name: str = "m", session: FakeSession | None = None, **fields: Any) -> tuple[Any, FakeSession]:
        """Load a model of that id; fields: of Model."""
        session = self.backend.sessions.setdefault(name.encode(), session or FakeSession())
        return await self.engine.load(model(name, **fields)), session

    async def entered(self, session: FakeSession) -> None:
        """Wait until one more run of the session has begun."""
        assert await asyncio.to_thread(session.entered.acquire, timeout=WAIT_S), "no run began"


def model(name: str = "m", device: bytes = b"CPU", batch: int = 0, min_batch: int = 0, min_wait_ms: int = 0) -> Model:
    return Model(
        name, "FAKE", Device.parse(device), b"", batch, min_batch, min_wait_ms, (), (), name.encode(), identity=name
    )


def tensor(rows: int = 1, value: float = 1.0, columns: int = 2) -> Tensor:
    """FLOAT (rows, columns), all elements alike."""
    return Tensor.from_numpy(np.full((rows, columns), value, np.float32))


def values(outputs: Any) -> Any:
    """The first output as nested lists."""
    return outputs[0].numpy().tolist()


def scalar(value: float) -> Tensor:
    return Tensor(DType.FLOAT, (), np.float32(value).tobytes())


class Order:
    """In which order runs ended."""

    def __init__(self) -> None:
        self.names: list[Any] = []
        self._expected = 0
        self._all = asyncio.Event()

    def watch(self, name: Any, run: Run) -> None:
        self._expected += 1
        run.waiter = lambda _: self._ended(name)

    def _ended(self, name: Any) -> None:
        self.names.append(name)
        if len(self.names) == self._expected:
            self._all.set()

    async def all(self) -> list[Any]:
        """The names, once every run has ended."""
        await self._all.wait()
        return self.names


def engine_test(**settings: Any) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[], None]]:
    """Run an async test with an engine that is closed afterwards, all of its threads ended."""

    def decorate(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            before = set(threading.enumerate())
            bench = Bench(**settings)
            try:
                await asyncio.wait_for(test(bench), WAIT_S)
            finally:
                for session in bench.backend.sessions.values():
                    session.gate.set()
                ended = await bench.engine.close(WAIT_S)
            assert ended
            left = {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("redisai")}
            assert not left

        def wrapped() -> None:
            asyncio.run(run())

        wrapped.__name__ = test.__name__
        wrapped.__doc__ = test.__doc__
        return wrapped

    return decorate


async def hold(bench: Bench, loaded: Any, session: FakeSession) -> Any:
    """Occupy the model's thread with one run until the gate opens."""
    session.gate.clear()
    run = bench.engine.run_model(loaded, [tensor()])
    await bench.entered(session)
    return run
