"""One front-door process beside several: when more of them pay."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.load import redis_benchmark
from harness.models import blob
from harness.report import Pace, interleave, row
from harness.servers import Servers
from harness.wire import Client, Word

from macro.tensor_io import DATA, FLOATS

__all__ = ["front_doors"]

_PIXELS = 784
_IMAGE = "?" * (4 * _PIXELS)
_LOADS = (1, 16, 64)
_WARM_UP_RUNS = 50


def front_doors(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Tensors, single runs and merged runs at 1, 16 and 64 clients. cpu_us counts all of a server's processes."""
    targets = {"one": servers.redisai(), "two": servers.redisai("--processes", "2")}
    with Client(targets["one"].port) as client:
        client.call("AI.MODELSTORE", "doors:mlp", "ONNX", "CPU", "BLOB", blob("onnx_mlp"))
        client.call("AI.MODELSTORE", "doors:mlp16", "ONNX", "CPU", "BATCHSIZE", 16, "BLOB", blob("onnx_mlp"))
        client.call("AI.TENSORSET", "doors:image", "FLOAT", 1, _PIXELS, "BLOB", _IMAGE)
    dag: tuple[Word, ...] = (
        *(
            "AI.DAGEXECUTE_RO",
            "ROUTING",
            "doors",
            "|>",
            "AI.TENSORSET",
            "in",
            "FLOAT",
            1,
            _PIXELS,
            "BLOB",
            _IMAGE,
            "|>",
        ),
        *("AI.MODELEXECUTE", "doors:mlp", "INPUTS", 1, "in", "OUTPUTS", 1, "out", "|>", "AI.TENSORGET", "out", "BLOB"),
    )
    commands: dict[str, tuple[Word, ...]] = {
        "set": ("AI.TENSORSET", "doors:tensor", "FLOAT", FLOATS, "BLOB", DATA),
        "get": ("AI.TENSORGET", "doors:tensor", "BLOB"),
        "mlp-one-trip": dag,
        "mlp-batch16": ("AI.MODELEXECUTE", "doors:mlp16", "INPUTS", 1, "doors:image", "OUTPUTS", 1, "doors:out"),
    }
    for name, command in commands.items():
        for target in targets.values():
            _warm_up(target.port, command, pace)
        for clients in _LOADS:
            load = partial(redis_benchmark, clients=clients, seconds=pace.seconds)
            sides = interleave({side: partial(load, target, command) for side, target in targets.items()}, pace)
            yield row(f"front-doors.{name}.c{clients}", sides, "two", "one", clients=clients)


def _warm_up(port: int, command: tuple[Word, ...], pace: Pace) -> None:
    """On as many connections as there are processes: each has its own models and its own proof that merging is safe."""
    with Client(port) as one, Client(port) as other:
        for client in (one, other):
            for _ in range(1 if pace.smoke else _WARM_UP_RUNS):
                client.call(*command)
