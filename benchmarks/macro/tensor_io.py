"""Tensors in and out, beside plain SET and GET of the same bytes; and what passing through us costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from harness.load import redis_benchmark
from harness.report import Pace, interleave, row
from harness.servers import Servers
from harness.wire import Client, Word, encode

__all__ = ["pass_through", "tensor_io"]

FLOATS = 256
DATA = "?" * (4 * FLOATS)
"""1 KB of float32, all 0.747: redis-benchmark's words may hold no NUL byte."""
_LOADS = ((16, 1), (16, 16), (50, 1))  # clients, pipeline
_KEYSPACE, _KEYSPACE_SMOKE = 10_000, 500


def tensor_io(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """AI.TENSORSET and AI.TENSORGET of 1 KB; one key for all clients, and random keys."""
    keyspace = _KEYSPACE_SMOKE if pace.smoke else _KEYSPACE
    _fill(servers, keyspace)
    for keys, suffix in (("same", "one"), ("random", "__rand_int__")):
        commands: dict[str, tuple[Sequence[Word], Sequence[Word]]] = {
            "set": (
                ("AI.TENSORSET", f"tensor:{suffix}", "FLOAT", FLOATS, "BLOB", DATA),
                ("SET", f"plain:{suffix}", DATA),
            ),
            "get": (("AI.TENSORGET", f"tensor:{suffix}", "BLOB"), ("GET", f"plain:{suffix}")),
        }
        for name, (ours, plain) in commands.items():
            yield from _compare(f"tensor-io.{name}", servers, pace, ours, plain, keys, keyspace)


def pass_through(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Plain SET and GET of 1 KB through us, and direct."""
    for name, words in (("set", ("SET", "plain:one", DATA)), ("get", ("GET", "plain:one"))):
        yield from _compare(f"pass-through.{name}", servers, pace, words, words, "same", 0)


def _compare(
    name: str, servers: Servers, pace: Pace, ours: Sequence[Word], plain: Sequence[Word], keys: str, keyspace: int
) -> Iterator[dict[str, Any]]:
    for clients, pipeline in _LOADS:
        random = keyspace if keys == "random" else 0
        load = partial(redis_benchmark, clients=clients, seconds=pace.seconds, pipeline=pipeline, keyspace=random)
        sides = {
            "redis": partial(load, servers.redis, plain),
            **{side: partial(load, target, ours) for side, target in servers.sides().items()},
        }
        yield row(
            f"{name}.c{clients}.p{pipeline}.{keys}",
            interleave(sides, pace),
            "redisai",
            "redis",
            clients=clients,
            pipeline=pipeline,
            keys=keys,
            value_bytes=len(DATA),
            commands={"redisai": _shown(ours), "redis": _shown(plain)},
        )


def _shown(words: Sequence[Word]) -> str:
    return " ".join(str(word) if len(str(word)) < 80 else f"<{len(str(word))} bytes>" for word in words)


def _fill(servers: Servers, keyspace: int) -> None:
    names = ["one", *(f"{i:012}" for i in range(keyspace))]
    for target, command in (
        (servers.redis, lambda name: encode("SET", f"plain:{name}", DATA)),
        (servers.redisai(), lambda name: encode("AI.TENSORSET", f"tensor:{name}", "FLOAT", FLOATS, "BLOB", DATA)),
    ):
        with Client(target.port) as client:
            for start in range(0, len(names), 100):
                part = names[start : start + 100]
                client.pipeline(b"".join(map(command, part)), len(part))
