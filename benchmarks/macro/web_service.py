"""One-trip DAGs beside a FastAPI program that does the same work, and beside ONNX Runtime without any server.

All run the same models at one thread per operation. `limit` is ONNX Runtime in one process, a thread per core, each
running the model again and again: with merged inputs where our model has a BATCHSIZE. Nothing that answers requests
can be faster.

`web_service_modes` has the same rows with our server in every mode that decides which process computes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from harness.load import Request, Sample, closed_loop, latency_sample
from harness.models import CNN_IMAGE, blob, build_cnn, store
from harness.report import Pace, interleave, row
from harness.servers import Servers, Target
from harness.wire import Client, Word, encode, http_call, post
from numpy.typing import NDArray

from benchmarks.chatbot.models import GRU_MESSAGE, GRU_STATE, build_gru

__all__ = ["web_service", "web_service_modes"]

_BATCH = 16
_LOADS = (1, 16, 64)
_WORKERS = os.cpu_count() or 1
_STATE = "service:state:__client__"
_WARM_UP_S = 0.5
_MODES = {
    "none": ("--isolation", "none"),
    "auto": ("--isolation", "auto"),
    "all": ("--isolation", "all"),
    "doors": ("--processes", str(max(2, _WORKERS))),
}
"""Sides of `web_service_modes` -> options of our server."""

Inputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Task:
    """A model and one request of it.

    inputs: by name, of one row; the first one is what a request brings.   path: of the request to the program.
    """

    name: str
    model: bytes
    inputs: Inputs
    path: str

    @property
    def data(self) -> bytes:
        return next(iter(self.inputs.values())).tobytes()

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.inputs.values())).shape

    def dag(self, key: str) -> Request:
        """Ours, of the model under that key."""
        head: tuple[Word, ...] = ("AI.DAGEXECUTE_RO", "ROUTING", "service")
        inputs, outputs = ("in",), ("out",)
        if len(self.inputs) > 1:
            head = ("AI.DAGEXECUTE", "LOAD", 1, _STATE, "PERSIST", 1, _STATE)
            inputs, outputs = ("in", _STATE), ("out", _STATE)
        words = (
            *head,
            *("|>", "AI.TENSORSET", "in", "FLOAT", *self.shape, "BLOB", self.data),
            *("|>", "AI.MODELEXECUTE", key, "INPUTS", len(inputs), *inputs, "OUTPUTS", len(outputs), *outputs),
            *("|>", "AI.TENSORGET", "out", "BLOB"),
        )
        return Request(encode(*words))

    def post(self) -> Request:
        """The program's."""
        return Request(post(self.path, self.data), http=True)


def _tasks() -> list[_Task]:
    rng = np.random.default_rng(1)

    def one(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal((1, *shape), np.float32)

    return [
        _Task("mlp", blob("onnx_mlp"), {"x": one(784)}, "/run/mlp"),
        _Task("cnn", build_cnn(), {"image": one(*CNN_IMAGE)}, "/run/cnn"),
        _Task("gru", build_gru(), {"message": one(GRU_MESSAGE), "state": one(GRU_STATE)}, "/gru/__client__"),
    ]


def web_service(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """An MLP, a CNN of 4 ms, and a GRU with a state per client; nothing without FastAPI."""
    if find_spec("fastapi") is not None:
        yield from _beside(servers, servers.sides(), "web-service", _tasks(), _LOADS, pace)


def web_service_modes(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """The same with `--isolation` none, auto and all, and with a front door per core (side `doors`).

    The ratio is that of `auto`, the others are `ratio_SIDE`. cpu_us counts all processes of a side.
    """
    if find_spec("fastapi") is None:
        return
    sides = {mode: servers.redisai(*options) for mode, options in _MODES.items()}
    tasks, loads = (_tasks()[:1], _LOADS[1:2]) if pace.smoke else (_tasks(), _LOADS)
    for line in _beside(servers, sides, "web-service-modes", tasks, loads, pace):
        fastapi = line["sides"]["fastapi"]["per_s"]
        ratios = {f"ratio_{side}": round(line["sides"][side]["per_s"] / fastapi, 4) for side in sides}
        yield {**line, **ratios}


def _beside(
    servers: Servers,
    sides: Mapping[str, Target],
    name: str,
    tasks: Sequence[_Task],
    loads: Sequence[int],
    pace: Pace,
) -> Iterator[dict[str, Any]]:
    """Our servers beside the program; the ratio is that of `redisai`, or of `auto`."""
    for task in tasks:
        store(servers.directory, task.name, task.model)
    program = servers.web_service(servers.directory)
    over = "redisai" if "redisai" in sides else "auto"
    for task in tasks:
        _prepare(next(iter(sides.values())), task)
        _check(sides, program, task)
        _warm_up(sides, program, task, pace)
        for clients in loads:
            for batchsize, figures in _measured(sides, program, task, clients, pace).items():
                facts = {"clients": clients, "pipeline": 1, "batchsize": batchsize, "workers": _WORKERS}
                yield row(f"{name}.{task.name}.batch{batchsize}.c{clients}", figures, over, "fastapi", **facts)


def _key(task: _Task, batchsize: int) -> str:
    return f"service:{task.name}:{batchsize}"


def _prepare(target: Target, task: _Task) -> None:
    with Client(target.port) as client:
        for batchsize in (0, _BATCH):
            words = ("BATCHSIZE", batchsize) if batchsize else ()
            client.call("AI.MODELSTORE", _key(task, batchsize), "ONNX", "CPU", *words, "BLOB", task.model)
        for number in range(max(_LOADS)):
            state = Request(_STATE.encode()).of_client(number)
            client.call("AI.TENSORSET", state, "FLOAT", 1, GRU_STATE, "BLOB", bytes(4 * GRU_STATE))


def _check(sides: Mapping[str, Target], program: Target, task: _Task) -> None:
    """All answer alike, in a conversation that is new to them. Raises: SystemExit."""
    last = max(_LOADS)
    for target in sides.values():
        with Client(target.port) as client:
            words = ("FLOAT", 1, GRU_STATE, "BLOB", bytes(4 * GRU_STATE))
            client.call("AI.TENSORSET", Request(_STATE.encode()).of_client(last), *words)
            ours = client.pipeline(task.dag(_key(task, 0)).of_client(last), 1)[0][-1]
    theirs, _ = http_call(program.port, task.post().of_client(last))
    if not np.allclose(np.frombuffer(ours, np.float32), np.frombuffer(theirs, np.float32), atol=1e-4):
        raise SystemExit(f"{task.name}: the program answers something else")


def _warm_up(sides: Mapping[str, Target], program: Target, task: _Task, pace: Pace) -> None:
    """Every worker of the program has had requests, and our servers know how long runs and batches take."""
    loop = partial(closed_loop, clients=_BATCH, seconds=min(_WARM_UP_S, pace.seconds))
    loop(program, [task.post()])
    for target in sides.values():
        for batchsize in (0, _BATCH):
            loop(target, [task.dag(_key(task, batchsize))])


def _measured(
    sides: Mapping[str, Target], program: Target, task: _Task, clients: int, pace: Pace
) -> dict[int, dict[str, dict[str, Any]]]:
    """Figures by BATCHSIZE and side: without BATCHSIZE and with it, measured in one go."""
    loop = partial(closed_loop, clients=clients, seconds=pace.seconds)
    measures = {"fastapi": partial(loop, program, [task.post()])}
    for batchsize in (0, _BATCH):
        dag = task.dag(_key(task, batchsize))
        measures |= {f"{side}{batchsize}": partial(loop, each, [dag]) for side, each in sides.items()}
        measures[f"limit{batchsize}"] = partial(_limit, task, batchsize or 1, pace.seconds)
    figures = interleave(measures, pace)
    return {
        batchsize: {side: figures[f"{side}{batchsize}"] for side in (*sides, "limit")} | {"fastapi": figures["fastapi"]}
        for batchsize in (0, _BATCH)
    }


def _limit(task: _Task, rows: int, seconds: float) -> Sample:
    """ONNX Runtime in this process, a thread per core, `rows` at a time; a request is a row."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(task.model, options)
    inputs = {name: np.repeat(value, rows, axis=0) for name, value in task.inputs.items()}
    session.run(None, inputs)
    cpu, started = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(_WORKERS) as pool:
        found = list(pool.map(lambda _: _run_for(session, inputs, seconds), range(_WORKERS)))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    sample = latency_sample([each for latencies in found for each in latencies], elapsed)
    n = sample.n * rows
    return replace(sample, per_s=sample.per_s * rows, n=n, cpu_us=cpu / n * 1e6, cores=cpu / elapsed)


def _run_for(session: Any, inputs: Inputs, seconds: float) -> Sequence[float]:
    latencies: list[float] = []
    now = time.perf_counter
    before = now()
    until = before + seconds
    while before < until:
        session.run(None, inputs)
        after = now()
        latencies.append(after - before)
        before = after
    return latencies
