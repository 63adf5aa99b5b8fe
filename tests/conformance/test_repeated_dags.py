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


@pytest.mark.parametrize("side_by_side", [False, True])
def test_every_form_of_operation_around_one_run(
    wire: Wire, front_door: FrontDoor, bare: redis.Redis, side_by_side: bool
) -> None:
    """As by a DAG of two runs, which is planned."""
    wire("AI.TENSORSET", "stored", "FLOAT", 1, 2, "BLOB", blob(7, 8))
    large = np.arange(2 * 40_000, dtype=np.float32).reshape(-1, 2)
    extra = ("|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "stored", "OUTPUTS", 1, "more") if side_by_side else ()

    def command(data: bytes, *shape: int) -> tuple[Any, ...]:
        return (
            "AI.DAGEXECUTE", "LOAD", 1, "stored", "PERSIST", 3, "y", "stored", "x",
            "|>", "AI.TENSORGET", "stored", "VALUES",
            "|>", "AI.TENSORSET", "x", "FLOAT", *shape, "BLOB", data,
            "|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y",
            "|>", "AI.TENSORGET", "y", "META", "|>", "AI.TENSORGET", "y", "BLOB", "|>", "AI.TENSORGET", "x",
            *extra,
        )  # fmt: skip

    for n in range(4):
        data, doubled = blob(n, 1), blob(2 * n, 2)
        meta = [b"dtype", b"FLOAT", b"shape", [1, 2]]
        assert wire(*command(data, 1, 2))[:6] == [[b"7", b"8"], b"OK", b"OK", meta, doubled, [*meta, b"blob", data]]
        kept_values = [numbers(bare.get(key)) for key in ("y", "stored", "x")]  # type: ignore[arg-type]
        assert kept_values == [[2 * n, 2], [7, 8], [n, 1]]
        refused = wire(*command(data + blob(1, 1)[:4], 1, 3))
        assert refused[:2] == [[b"7", b"8"], b"OK"]
        assert isinstance(refused[2], Exception)
        assert refused[3:5] == [b"NA", b"NA"]
        assert refused[5][-1] == data + blob(1, 1)[:4]
        assert numbers(bare.get("y")) == [2 * n, 2]  # type: ignore[arg-type]  # redis-py's types admit of an awaitable
        many = wire(*command(large.tobytes(), 40_000, 2))
        assert many[4] == (2 * large).tobytes()
        assert numbers(bare.get("y")) == (2 * large).ravel().tolist()  # type: ignore[arg-type]
        bare.delete("y")
        bare.rpush("y", "a list")
        assert "WRONGTYPE" in str(wire(*command(data, 1, 2))[-1])
        assert bare.type("y") == b"list"
        bare.delete("y")


def test_counted_once(wire: Wire) -> None:
    for n in range(5):
        wire(*one_trip(blob(n, 1)))
        assert isinstance(wire(*one_trip(blob(n, 1, 1), shape=(1, 3)))[1], Exception)
    info = wire("AI.INFO", "m")
    assert {name: info[i + 1] for i, name in enumerate(info) if name in (b"calls", b"errors", b"samples")} == {
        b"calls": 10, b"errors": 5, b"samples": 5,
    }  # fmt: skip


def test_a_value_that_changes_behind_the_server_s_back(wire: Wire, bare: redis.Redis) -> None:
    wire("AI.TENSORSET", "state", "FLOAT", 1, 2, "BLOB", blob(1, 2))
    turn = (
        "AI.DAGEXECUTE", "LOAD", 1, "state", "PERSIST", 1, "state",
        "|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "state", "OUTPUTS", 1, "state",
        "|>", "AI.TENSORGET", "state", "BLOB",
    )  # fmt: skip
    expected = np.array([1, 2], np.float32)
    other = bare.get("state")
    for n in range(12):
        if n % 3 == 2:
            bare.set("state", other)  # type: ignore[arg-type]  # redis-py's types admit of an awaitable
            expected = np.array([1, 2], np.float32)
        expected = expected * 2
        assert wire(*turn) == [b"OK", expected.tobytes()]
        assert numbers(bare.get("state")) == expected.tolist()  # type: ignore[arg-type]
    info = wire("AI.INFO", "m")
    assert info[info.index(b"calls") + 1] == 12


@pytest.mark.parametrize("protocol", [2, 3])
def test_blobs_anywhere_in_the_reply(wire: Wire, front_door: FrontDoor, protocol: int) -> None:
    with Wire(front_door.port, protocol) as client:
        for n in range(4):
            words: tuple[Any, ...] = ("AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "x", "FLOAT", 1, 2, "BLOB")
            words = (
                *words, blob(n, 1), "|>", "AI.TENSORGET", "x", "BLOB",
                "|>", "AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y",
                "|>", "AI.TENSORGET", "y", "BLOB", "|>", "AI.TENSORGET", "x", "BLOB",
                "|>", "AI.TENSORSET", "z", "FLOAT", 1, "VALUES", 3,
            )  # fmt: skip
            assert client(*words) == [b"OK", blob(n, 1), b"OK", blob(2 * n, 2), blob(n, 1), b"OK"]
            assert client(*kept(blob(n, 1), "y")) == [b"OK", b"OK"]
