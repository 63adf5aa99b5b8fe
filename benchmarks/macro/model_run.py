"""AI.MODELEXECUTE of small models, beside a plain SET of what the run writes and beside the near-cache baseline."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from harness.load import Request, open_loop, redis_benchmark
from harness.models import blob, store
from harness.report import Pace, interleave, row
from harness.servers import Servers
from harness.wire import Client, encode

__all__ = ["batching", "model_run"]

_HEADER_BYTES = 128  # of a stored tensor of few dimensions
_OTHER = "baseline:"  # the baseline has a tensor format of its own, which we would refuse
_LOADS = (1, 16, 50)
BATCH = 16
MODELS = {"tiny": ("onnx_mul", 2, 2), "mlp": ("onnx_mlp", 784, 10)}  # builder, floats in, floats out


def prepare(servers: Servers, model: str, batchsize: int) -> str:
    """Store a model and its input tensor through us; the model's key."""
    builder, floats, _ = MODELS[model]
    key = f"{model}:batch{batchsize}"
    with Client(servers.redisai().port) as client:
        words = ("BATCHSIZE", batchsize) if batchsize else ()
        client.call("AI.MODELSTORE", key, "ONNX", "CPU", *words, "BLOB", blob(builder))
        client.call("AI.TENSORSET", f"{model}:in", "FLOAT", 1, floats, "BLOB", _floats(floats))
    return key


def _floats(count: int) -> bytes:
    return np.linspace(-1, 1, count, dtype=np.float32).tobytes()


def _execute(key: str, model: str, prefix: str = "") -> tuple[str, ...]:
    return ("AI.MODELEXECUTE", key, "INPUTS", "1", f"{prefix}{model}:in", "OUTPUTS", "1", f"{prefix}{model}:out")


def model_run(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """The tiny model and the MLP, without BATCHSIZE and with 16; the baseline merges up to 16 always."""
    for model, (builder, floats, outputs) in MODELS.items():
        path = store(servers.directory, model, blob(builder))
        baselines = {"near_cache": False, "near_cache_thread": True}
        others = {name: servers.near_cache(path, thread=thread) for name, thread in baselines.items()}
        for target in others.values():
            with Client(target.port) as client:
                client.call("AI.TENSORSET", f"{_OTHER}{model}:in", "FLOAT", 1, floats, "BLOB", _floats(floats))
        for batchsize in (0, BATCH):
            key = prepare(servers, model, batchsize)
            for clients in _LOADS:
                load = partial(redis_benchmark, clients=clients, seconds=pace.seconds)
                plain = ("SET", f"{model}:plain", "?" * (_HEADER_BYTES + 4 * outputs))
                sides = {
                    "redis_set": partial(load, servers.redis, plain),
                    **{side: partial(load, each, _execute(key, model)) for side, each in servers.sides().items()},
                    **{side: partial(load, each, _execute(key, model, _OTHER)) for side, each in others.items()},
                }
                figures = interleave(sides, pace)
                ours = figures["redisai"]["per_s"]
                ratios = {side: round(ours / figures[side]["per_s"], 4) for side in others}
                facts = {"clients": clients, "pipeline": 1, "batchsize": batchsize, "ratios_to_baseline": ratios}
                yield row(f"model-run.{model}.batch{batchsize}.c{clients}", figures, "redisai", "redis_set", **facts)


def batching(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """The MLP at 50 clients: what BATCHSIZE 16 gains, and the latency at 70 % of what is possible without it."""
    keys = {"single": prepare(servers, "mlp", 0), "batched": prepare(servers, "mlp", BATCH)}
    load = partial(redis_benchmark, servers.redisai(), clients=50, seconds=pace.seconds)
    closed = interleave(
        {
            "redis_set": partial(
                redis_benchmark, servers.redis, ("SET", "plain", "?" * 168), clients=50, seconds=pace.seconds
            ),
            **{name: partial(load, _execute(key, "mlp")) for name, key in keys.items()},
        },
        pace,
    )
    yield row("batching.mlp.closed.c50", closed, "batched", "single", clients=50, pipeline=1, batchsize=BATCH)
    rate = 0.7 * closed["single"]["per_s"]
    paced = partial(open_loop, clients=50, per_s=rate, seconds=pace.seconds)
    opened = interleave(
        {
            "redis_set": partial(paced, servers.redis, Request(encode("SET", "plain", "?" * 168))),
            **{
                name: partial(paced, servers.redisai(), Request(encode(*_execute(key, "mlp"))))
                for name, key in keys.items()
            },
        },
        pace,
    )
    facts = {"clients": 50, "pipeline": 1, "batchsize": BATCH, "offered_per_s": round(rate)}
    yield row("batching.mlp.open.70%", opened, "batched", "single", figure="p99_ms", **facts)
