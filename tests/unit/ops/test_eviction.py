"""Which models are unloaded, as values. A model has a name, bytes, places of its copies, and a time of its last use."""

from __future__ import annotations

from typing import Any

import pytest

from redisai_py.engine.settings import ModelSnapshot
from redisai_py.ops.eviction import taken_bytes, to_unload


def held(name: str, nbytes: int, *, here: bool = True, process: int = 0, used: float = 0.0, runs: int = 0) -> Any:
    return ModelSnapshot(name, "ONNX", "CPU", nbytes, runs, False, process, here, used)


def shared(name: str, nbytes: int, used: float, doors: int = 2, **more: Any) -> list[ModelSnapshot]:
    """A model in one engine process; its latest use was at the last front door."""
    return [held(name, nbytes, here=False, process=7, used=used * (door == doors - 1), **more) for door in range(doors)]


def test_a_copy_in_a_process_counts_once_and_those_in_front_doors_each() -> None:
    assert taken_bytes(shared("m", 100, 0.0, doors=4)) == 100
    assert taken_bytes([held("m", 100), held("m", 100)]) == 200
    beside = [held("m", 100, process=7), held("m", 100, process=7), held("m", 100, here=False, process=7)]
    assert taken_bytes(beside) == 300
    assert taken_bytes([held("m", 100, process=7), held("m", 100, process=8)]) == 400
    assert taken_bytes([]) == 0


@pytest.mark.parametrize(
    ("limit", "spared", "unloaded", "left"),
    [
        (600, (), {}, 600),
        (599, (), {"b": 1.0}, 500),
        (499, (), {"b": 1.0, "a": 2.0}, 400),
        (399, ("b",), {"a": 2.0, "c": 3.0}, 300),
        (0, (), {"b": 1.0, "a": 2.0, "c": 3.0, "d": 4.0}, 0),
    ],
)
def test_the_least_recently_used_at_any_front_door_goes_first(
    limit: int, spared: tuple[str, ...], unloaded: dict[str, float], left: int
) -> None:
    models = [
        *shared("a", 100, 2.0),
        *shared("b", 100, 1.0, doors=3),
        held("c", 100, used=3.0),
        held("c", 100, used=0.5),
        *shared("d", 200, 4.0),
    ]
    assert to_unload(models, limit, spared) == (unloaded, left)


def test_a_model_in_use_at_one_front_door_stays_at_all() -> None:
    busy = [held("busy", 100, used=0.0, runs=1), held("busy", 100, used=0.0)]
    models = [*busy, held("idle", 100, used=9.0)]
    assert to_unload(models, 250, ()) == ({"idle": 9.0}, 200)
    assert to_unload(models, 50, ()) == ({"idle": 9.0}, 200)
