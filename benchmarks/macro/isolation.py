"""What a slow model does to everybody else, and what it costs that models run in processes of their own."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from harness.load import Request, Sample, open_loop, redis_benchmark
from harness.models import CNN_IMAGE, blob, build_cnn, build_heavy
from harness.report import Pace, interleave, row
from harness.servers import Servers, Target
from harness.wire import Client, encode

from macro.tensor_io import DATA, FLOATS

__all__ = ["engine_processes", "slow_neighbour"]

_CLIENTS, _CLIENTS_SMOKE = 200, 10
_ITERATIONS, _ITERATIONS_SMOKE = 12_500, 300  # about 2 s per run, and 50 ms
_SECONDS, _SECONDS_SMOKE = 10.0, 0.3
_PROBES_PER_S = 200.0
_LOOK_UP_S = 0.1


MODES = ("none", "auto", "all")
_WARM_UP_RUNS = 300
"""More than a model needs to prove itself where `--isolation` is `auto`."""


def engine_processes(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """MODELEXECUTE of models in the server and in engine processes: the hop alone (1 client), and under load (16).

    cpu_us counts every process of the server. The ratio is that of `--isolation auto` to `none`; `ratio_all` that of
    `all` to `none`.
    """
    targets = {mode: servers.redisai("--isolation", mode) for mode in MODES}
    models = {
        "tiny": (blob("onnx_mul"), (2,), 0),
        "mlp": (blob("onnx_mlp"), (784,), 0),
        "mlp16": (blob("onnx_mlp"), (784,), 16),
        "cnn": (build_cnn(), CNN_IMAGE, 0),
    }
    with Client(targets["none"].port) as client:
        for name, (data, shape, batchsize) in models.items():
            words = ("BATCHSIZE", batchsize) if batchsize else ()
            client.call("AI.MODELSTORE", f"iso:{name}", "ONNX", "CPU", *words, "BLOB", data)
            values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).tobytes()
            client.call("AI.TENSORSET", f"iso:{name}:in", "FLOAT", 1, *shape, "BLOB", values)
    for name in models:
        command = (
            "AI.MODELEXECUTE", f"iso:{name}", "INPUTS", "1", f"iso:{name}:in", "OUTPUTS", "1", f"iso:{name}:out"
        )  # fmt: skip
        for target in targets.values():
            with Client(target.port) as client:
                for _ in range(1 if pace.smoke else _WARM_UP_RUNS):
                    client.call(*command)
        for clients in (1, 16):
            load = partial(redis_benchmark, clients=clients, seconds=pace.seconds)
            sides = interleave({mode: partial(load, target, command) for mode, target in targets.items()}, pace)
            ratio = round(sides["all"]["per_s"] / sides["none"]["per_s"], 4)
            yield row(f"engine-processes.{name}.c{clients}", sides, "auto", "none", clients=clients, ratio_all=ratio)


def slow_neighbour(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """PING and a 1 KB get at a steady rate, while 200 clients ask for a model of about 2 s again and again.

    The ratio is that of the 99th percentile to bare Redis's at the same moment of the same machine.
    """
    target = servers.redisai()
    with Client(target.port) as client:
        iterations = _ITERATIONS_SMOKE if pace.smoke else _ITERATIONS
        client.call("AI.MODELSTORE", "slow", "ONNX", "CPU", "BLOB", build_heavy(iterations))
        client.call("AI.TENSORSET", "slow:in", "FLOAT", 1, 2, "VALUES", 1, 2)
        client.call("AI.TENSORSET", "tensor:small", "FLOAT", FLOATS, "BLOB", DATA)
        client.call("SET", "plain:small", DATA)
    probes = {
        "ping": (encode("PING"), encode("PING")),
        "get": (encode("AI.TENSORGET", "tensor:small", "BLOB"), encode("GET", "plain:small")),
    }
    clients = _CLIENTS_SMOKE if pace.smoke else _CLIENTS
    seconds = (_SECONDS_SMOKE if pace.smoke else _SECONDS) / 2
    facts = {"clients": 4, "pipeline": 1, "slow_clients": clients, "seconds_per_side": seconds}
    with _Hammer(target, clients):
        for name, (ours, plain) in probes.items():
            measures = {
                "redis": partial(_probe, servers.redis, plain, seconds),
                "redisai": partial(_probe, target, ours, seconds),
            }
            sides = interleave(measures, Pace(seconds, 1, pace.smoke))
            yield row(f"slow-neighbour.{name}", sides, "redisai", "redis", figure="p99_ms", **facts)


def _probe(target: Target, data: bytes, seconds: float) -> Sample:
    return open_loop(target, Request(data), clients=4, per_s=_PROBES_PER_S, seconds=seconds)


class _Hammer:
    """Connections that ask for the slow model again whenever they have their reply."""

    def __init__(self, target: Target, clients: int) -> None:
        self._request = encode("AI.MODELEXECUTE", "slow", "INPUTS", 1, "slow:in", "OUTPUTS", 1, "slow:out")
        self._connections = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(clients)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._failure = b""

    def __enter__(self) -> _Hammer:
        for connection in self._connections:
            connection.sendall(self._request)
        self._thread.start()
        return self

    def _work(self) -> None:
        while not self._stop.is_set():
            for connection in select.select(self._connections, (), (), _LOOK_UP_S)[0]:
                reply = connection.recv(4096)
                if reply[:1] != b"+":
                    self._failure = reply or b"closed"
                    return
                connection.sendall(self._request)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()
        if self._failure:
            raise RuntimeError(f"the slow model's clients got {self._failure[:200]!r}")
