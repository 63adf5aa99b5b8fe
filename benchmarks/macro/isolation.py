"""What a slow model does to everybody else."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.load import Request, Sample, open_loop
from harness.models import build_heavy
from harness.report import Pace, interleave, row
from harness.servers import Servers, Target
from harness.wire import Client, encode

from macro.tensor_io import DATA, FLOATS

__all__ = ["slow_neighbour"]

_CLIENTS, _CLIENTS_SMOKE = 200, 10
_ITERATIONS, _ITERATIONS_SMOKE = 12_500, 300  # about 2 s per run, and 50 ms
_SECONDS, _SECONDS_SMOKE = 10.0, 0.3
_PROBES_PER_S = 200.0
_LOOK_UP_S = 0.1


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
