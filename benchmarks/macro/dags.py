"""DAGs: one trip instead of three, with batches, in parallel, and the deprecated form as fraud detection sends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from harness.load import Request, Sample, closed_loop
from harness.models import FRAUD_REFERENCE, FRAUD_TRANSACTION, blob, build_fraud, build_heavy
from harness.report import Pace, interleave, row
from harness.servers import Servers, Target
from harness.wire import Client, Word, encode

__all__ = ["fraud_detection", "one_trip", "wide_dag"]

_BATCH = 16
_WIDE = 4
_HEAVY_ITERATIONS, _HEAVY_ITERATIONS_SMOKE = 125, 10  # about 20 ms, and 2


def _store(target: Target, key: str, data: bytes, *words: Word) -> None:
    with Client(target.port) as client:
        client.call("AI.MODELSTORE", key, "ONNX", "CPU", *words, "BLOB", data)


def _data(count: int) -> bytes:
    return np.linspace(0.1, 1.0, count, dtype=np.float32).tobytes()


def _loop(target: Target, cycle: Sequence[Request], clients: int, pace: Pace) -> Sample:
    return closed_loop(target, cycle, clients=clients, seconds=pace.seconds)


def one_trip(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Set a tensor, run a model, get the output: as one AI.DAGEXECUTE, as three commands, as three in one pipeline.

    One request here is all three steps. The bare-Redis side is SET and GET of the same bytes, one after the other.
    """
    for model, builder, floats, outputs in (("tiny", "onnx_mul", 2, 2), ("mlp", "onnx_mlp", 784, 10)):
        for batchsize, loads in ((0, (16, 50, 64)), (_BATCH, (16, 64))):
            key = f"dag:{model}:batch{batchsize}"
            words = ("BATCHSIZE", batchsize) if batchsize else ()
            _store(servers.redisai(), key, blob(builder), *words)
            steps = (
                ("AI.TENSORSET", "dag:in:__client__", "FLOAT", 1, floats, "BLOB", _data(floats)),
                ("AI.MODELEXECUTE", key, "INPUTS", 1, "dag:in:__client__", "OUTPUTS", 1, "dag:out:__client__"),
                ("AI.TENSORGET", "dag:out:__client__", "BLOB"),
            )
            dag: list[Word] = ["AI.DAGEXECUTE", "ROUTING", "dag"]
            for step in steps:
                dag += ["|>", *step]
            plain = [encode("SET", "dag:plain:__client__", "?" * (4 * outputs)), encode("GET", "dag:plain:__client__")]
            for clients in loads:
                measures = {"redis": partial(_loop, servers.redis, list(map(Request, plain)), clients, pace)}
                for side, target in servers.sides().items():
                    separate = [encode(*step) for step in steps]
                    loop = partial(_loop, target, clients=clients, pace=pace)
                    names = {"redisai": ("one_trip", "three", "pipelined"), "before": ("before", "", "")}[side]
                    cycles = ([Request(encode(*dag))], list(map(Request, separate)), [Request(b"".join(separate), 3)])
                    measures |= {name: partial(loop, cycle) for name, cycle in zip(names, cycles, strict=True) if name}
                sides = interleave(measures, pace)
                facts = {"clients": clients, "pipeline": 1, "batchsize": batchsize}
                yield row(f"one-trip.{model}.batch{batchsize}.c{clients}", sides, "one_trip", "three", **facts)


def wide_dag(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Four models of about 20 ms that do not depend on each other: in one DAG, and one after the other."""
    target = servers.redisai()
    data = build_heavy(_HEAVY_ITERATIONS_SMOKE if pace.smoke else _HEAVY_ITERATIONS)
    keys = [f"wide:{i}" for i in range(_WIDE)]
    for key in keys:
        _store(target, key, data)
    with Client(target.port) as client:
        client.call("AI.TENSORSET", "wide:in", "FLOAT", 1, 2, "BLOB", _data(2))
    runs = [
        ("AI.MODELEXECUTE", key, "INPUTS", 1, "wide:in", "OUTPUTS", 1, f"wide:out{i}") for i, key in enumerate(keys)
    ]
    wide: list[Word] = ["AI.DAGEXECUTE", "LOAD", 1, "wide:in", "PERSIST", _WIDE]
    wide += [f"wide:out{i}" for i in range(_WIDE)]
    for run in runs:
        wide += ["|>", *run]
    plain = [Request(encode("SET", f"wide:plain{i}", "?" * 8)) for i in range(_WIDE)]
    measures = {
        "redis": partial(_loop, servers.redis, plain, 1, pace),
        "wide": partial(_loop, target, [Request(encode(*wide))], 1, pace),
        "sequential": partial(_loop, target, [Request(encode(*run)) for run in runs], 1, pace),
    }
    sides = interleave(measures, pace)
    yield row("wide-dag", sides, "wide", "sequential", figure="p50_ms", clients=1, pipeline=1, operations=_WIDE)


def fraud_detection(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """A transaction scored against stored reference data by one AI.DAGRUN of the deprecated form, 50 clients.

    The bare-Redis side sets the transaction and gets the reference, in one pipeline.
    """
    _store(servers.redisai(), "fraud", build_fraud())
    transaction, reference = _data(FRAUD_TRANSACTION), _data(FRAUD_REFERENCE)
    with Client(servers.redisai().port) as client:
        client.call("AI.TENSORSET", "fraud:reference", "FLOAT", 1, FRAUD_REFERENCE, "BLOB", reference)
        client.call("SET", "fraud:plain", reference)
    dag = encode(
        *("AI.DAGRUN", "LOAD", 1, "fraud:reference", "|>"),
        *("AI.TENSORSET", "transaction", "FLOAT", 1, FRAUD_TRANSACTION, "BLOB", transaction, "|>"),
        *("AI.MODELRUN", "fraud", "INPUTS", "transaction", "fraud:reference", "OUTPUTS", "score", "|>"),
        *("AI.TENSORGET", "score", "BLOB"),
    )
    plain = encode("SET", "fraud:transaction", transaction) + encode("GET", "fraud:plain")
    measures = {
        "redis": partial(_loop, servers.redis, [Request(plain, 2)], 50, pace),
        **{side: partial(_loop, each, [Request(dag)], 50, pace) for side, each in servers.sides().items()},
    }
    facts = {"clients": 50, "pipeline": 1, "value_bytes": len(transaction) + len(reference)}
    yield row("fraud-detection.c50", interleave(measures, pace), "redisai", "redis", **facts)
