"""Pipelines of AI.TENSORSET for the tests of what is written together, and whether it was."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import redis

from tests.wire import Wire, value

__all__ = ["WRONGTYPE", "group_writes", "rows", "warm"]

WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
_DATA = 128  # offset of the elements in a stored tensor of this shape


def rows(keys: Iterable[str], number: float) -> list[tuple[str, str, str, str, str, str, bytes]]:
    """A command for each key that writes `number` there."""
    return [("AI.TENSORSET", key, "FLOAT", "1", "2", "BLOB", value(number)[_DATA:]) for key in keys]


def group_writes(bare: redis.Redis) -> int:
    """How often several tensors have been written at once."""
    stats = bare.info("commandstats")
    return int(stats.get("cmdstat_mset", {"calls": 0})["calls"])


def warm(client: Wire, bare: redis.Redis, key: str = "k0") -> None:
    """Write until what this client writes is written together: the connection for that is opened when first needed."""
    for _ in range(500):
        before = group_writes(bare)
        assert client.pipeline(rows([key] * 16, 0)) == [b"OK"] * 16
        if group_writes(bare) > before:
            return
        threading.Event().wait(0.01)
    raise AssertionError("pipelines are not written together")
