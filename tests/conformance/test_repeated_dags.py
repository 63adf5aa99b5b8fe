"""A client that sends a DAG again with other data: it is recognised, and answered as if it had been parsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from scripts import make_models
from tests.support import FrontDoor
from tests.wire import Wire, numbers


@pytest.fixture
def wire(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client of a server with a model that doubles."""
    with Wire(front_door.port) as client:
        client("AI.MODELSTORE", "m", "ONNX", "CPU", "BATCHSIZE", 16, "BLOB", make_models.build_onnx_mul())
        yield client


def blob(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


def one_trip(data: bytes, *options: Any, model: str = "m", shape: tuple[int, ...] = (1, 2)) -> tuple[Any, ...]:
    head = ("AI.DAGEXECUTE_RO", "ROUTING", "r", *options)
    return (
        *head, "|>", "AI.TENSORSET", "x", "FLOAT", *shape, "BLOB", data,
        "|>", "AI.MODELEXECUTE", model, "INPUTS", 1, "x", "OUTPUTS", 1, "y", "|>", "AI.TENSORGET", "y", "BLOB",
    )  # fmt: skip


def kept(data: bytes, key: str) -> tuple[Any, ...]:
    return (
        "AI.DAGEXECUTE", "PERSIST", 1, key, "|>", "AI.TENSORSET", "x", "FLOAT", 1, 2, "BLOB", data,
        "|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, key,
    )  # fmt: skip


def test_other_data_each_time(wire: Wire) -> None:
    for n in range(8):
        assert wire(*one_trip(blob(n, -n))) == [b"OK", b"OK", blob(2 * n, -2 * n)]


def test_other_commands_between(wire: Wire, bare: redis.Redis) -> None:
    for n in range(4):
        for key in ("a", "b", "long"):
            assert wire(*kept(blob(n, 1), key)) == [b"OK", b"OK"]
            assert numbers(bare.get(key)) == [2 * n, 2]  # type: ignore[arg-type]  # redis-py's types admit of an awaitable
        assert wire(*one_trip(blob(n, 2))) == [b"OK", b"OK", blob(2 * n, 4)]
        assert wire(*one_trip(blob(n, 2, n, 3), shape=(2, 2))) == [b"OK", b"OK", blob(2 * n, 4, 2 * n, 6)]
        assert wire("AI.TENSORSET", "x", "FLOAT", 1, 2, "BLOB", blob(n, 9)) == b"OK"
        assert wire("AI.TENSORGET", "x", "BLOB") == blob(n, 9)


@pytest.mark.parametrize("count", [2, 16, 40, 200])
def test_pipelines(wire: Wire, count: int) -> None:
    for _ in range(2):
        replies = wire.pipeline([one_trip(blob(n, 1)) for n in range(count)])
        assert replies == [[b"OK", b"OK", blob(2 * n, 2)] for n in range(count)]


def test_data_that_is_a_separator(wire: Wire) -> None:
    """Of two bytes, as the separator is: then it is one."""

    def command(data: bytes) -> tuple[Any, ...]:
        words = ("AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "x", "INT8", 2, "BLOB", data)
        return (*words, "|>", "AI.TENSORGET", "x", "BLOB")

    for data in (b"ab", b"cd"):
        assert wire(*command(data)) == [b"OK", data]
    assert isinstance(wire(*command(b"|>")), Exception)
    assert wire(*command(b"ef")) == [b"OK", b"ef"]


def test_wrong_data_are_refused_each_time(wire: Wire) -> None:
    def command(dtype: str, data: bytes) -> tuple[Any, ...]:
        words = ("AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "x", dtype, 4, "BLOB", data)
        return (*words, "|>", "AI.TENSORGET", "x", "BLOB")

    for _ in range(2):
        assert wire(*command("BOOL", b"\0\1\0\1")) == [b"OK", b"\0\1\0\1"]
        assert isinstance(wire(*command("BOOL", b"\0\1\0\2")), Exception)
        assert wire(*command("STRING", b"a\0b\0c\0d\0")) == [b"OK", b"a\0b\0c\0d\0"]
        assert isinstance(wire(*command("STRING", b"a\0b\0c\0dd")), Exception)


def test_in_a_transaction_and_by_who_may_not(wire: Wire, front_door: FrontDoor, bare: redis.Redis) -> None:
    expected = [b"OK", b"OK", blob(6, 8)]
    assert wire(*one_trip(blob(3, 4))) == expected
    replies = wire.pipeline([("MULTI",), one_trip(blob(3, 4)), ("DISCARD",), one_trip(blob(3, 4))])
    assert replies[0] == b"OK"
    assert replies[3] == expected
    bare.acl_setuser("reader", enabled=True, nopass=True, keys=["other"], commands=["+@all"])
    try:
        assert wire("AUTH", "reader", "x") == b"OK"
        for _ in range(2):
            reply = wire(*one_trip(blob(3, 4)))
            assert any("NOPERM" in str(item) for item in (reply if isinstance(reply, list) else [reply]))
    finally:
        bare.acl_deluser("reader")


def test_a_model_that_changes_or_goes(wire: Wire, bare: redis.Redis) -> None:
    for _ in range(3):
        assert wire(*one_trip(blob(3, 4)))[2] == blob(6, 8)
    bare.delete("m")
    for _ in range(2):
        assert "model" in str(wire(*one_trip(blob(3, 4)))).lower()
    wire("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul())
    assert wire(*one_trip(blob(5, 6)))[2] == blob(10, 12)
    assert [wire("AI.INFO", "m")[i + 1] for i, name in enumerate(wire("AI.INFO", "m")) if name == b"calls"] == [1]
