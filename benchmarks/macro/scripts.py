"""AI.SCRIPTEXECUTE: what calling a TorchScript function costs, beside the same code as a model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from harness.load import redis_benchmark
from harness.models import torch_script
from harness.report import Pace, interleave, row
from harness.servers import Servers
from harness.wire import Client

from macro.tensor_io import DATA, FLOATS

__all__ = ["script_call"]

_SOURCE = """
def twice(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] + tensors[0]
"""
_MODULE = """
def forward(self, x):
    return x + x
"""


def script_call(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """A function that adds a tensor of 1 KB to itself, beside a module that does so, run as a TORCH model, and beside a
    plain SET of 1 KB; nothing without torch.
    """
    if find_spec("torch") is None:
        return
    with Client(servers.redisai().port) as client:
        client.call("AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", 1, "twice", "SOURCE", _SOURCE)
        client.call("AI.MODELSTORE", "script:model", "TORCH", "CPU", "BLOB", torch_script(_MODULE))
        client.call("AI.TENSORSET", "script:in", "FLOAT", FLOATS, "BLOB", DATA)
    words = ("AI.SCRIPTEXECUTE", "script", "twice", "INPUTS", 1, "script:in", "OUTPUTS", 1, "script:out")
    model = ("AI.MODELEXECUTE", "script:model", "INPUTS", 1, "script:in", "OUTPUTS", 1, "script:out")
    for clients in (1, 16):
        load = partial(redis_benchmark, clients=clients, seconds=pace.seconds)
        measures = {
            "redis_set": partial(load, servers.redis, ("SET", "plain:one", DATA)),
            **{side: partial(load, target, words) for side, target in servers.sides().items()},
            "model": partial(load, servers.redisai(), model),
        }
        figures = interleave(measures, pace)
        ratio = round(figures["redisai"]["per_s"] / figures["model"]["per_s"], 4)
        facts = {"clients": clients, "pipeline": 1, "value_bytes": len(DATA), "ratio_to_model": ratio}
        yield row(f"script-call.c{clients}", figures, "redisai", "redis_set", **facts)
