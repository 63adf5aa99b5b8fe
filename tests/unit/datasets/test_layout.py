"""Schemas and shards: what fits, what is refused, and that a shard is the same whoever writes it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.layout import NUMBERS, Column, Schema, complete, decode_shard, encode_shard


def columns() -> dict[str, NDArray[Any]]:
    return {
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "y": np.array([True, False, True]),
        "name": np.array(["größe", None, ""], object),
        "at": np.array(["2020-01-01T10:00", "NaT", "1969-12-31"], "datetime64[us]"),
    }


def test_a_shard_gives_back_what_it_was_made_of() -> None:
    schema = Schema.of(columns(), nan=True)
    data = encode_shard(schema.check(columns()))
    assert data == encode_shard(schema.check(columns()))
    found = decode_shard("shard 0", data, Schema.from_json(schema.as_json()), 3)
    for name, values in columns().items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    assert list(decode_shard("shard 0", data, schema, 3, ["y"])) == ["y"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"y": None}, "is missing y"),
        ({"z": np.zeros(3)}, "has z, which is not in it"),
        ({"x": np.zeros((3, 3), np.float32)}, r"column x has values of the shape \(2,\), not \(3,\)"),
        ({"x": np.zeros((3, 2))}, "column x is float32, not float64"),
        ({"y": np.zeros(2, np.bool_)}, "different numbers of rows: x 3, y 2"),
        ({"name": np.array([1, 2, 3], object)}, "column name holds strings"),
        ({"at": np.zeros(3)}, "column at holds times, not float64"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], text: str) -> None:
    schema = Schema.of(columns(), nan=True)
    changed = {name: values for name, values in {**columns(), **change}.items() if values is not None}
    with pytest.raises(Invalid, match=text):
        schema.check(changed)


def test_what_loses_nothing_is_widened() -> None:
    schema = Schema((Column("x", "float64"),))
    assert schema.check({"x": np.array([1.5], np.float32)})["x"].dtype == np.float64


@pytest.mark.parametrize(
    "value",
    [
        "x",
        [],
        [{"name": "x", "type": "float99"}],
        [{"name": "", "type": "int8"}],
        [{"name": 3, "type": "int8"}],
        [{"name": "x", "type": "int8", "shape": ["a", 10**9]}],
        [{"name": "x", "type": "int8", "shape": [2**70]}],
        [{"name": "x", "type": "int8", "shape": [1] * 20}],
        [{"name": "x", "type": "int8"}, {"name": "x", "type": "int8"}],
        [["x"]],
    ],
)
def test_a_schema_from_a_stranger_is_checked(value: Any) -> None:
    with pytest.raises(Invalid):
        Schema.from_json(value)


def test_a_shard_from_a_stranger_is_checked() -> None:
    schema = Schema.of(columns(), nan=True)
    good = encode_shard(schema.check(columns()))
    other = encode_shard({**schema.check(columns()), "x": np.zeros((3, 2), np.int64)})
    texts = encode_shard({**schema.check(columns()), "name": np.full((3, 2), 0xC3, np.uint8)})
    for data, rows in ((b"", 3), (b"x" * 100, 3), (good[:-1], 3), (good, 4), (other, 3), (texts, 3)):
        with pytest.raises(Invalid, match="shard 7"):
            decode_shard("shard 7", data, schema, rows)


def test_nan_is_refused_unless_the_schema_says_otherwise() -> None:
    rows = {"x": np.array([[1, 2], [3, np.nan]]), "at": np.array(["2020", "NaT"], "datetime64[us]"), "i": np.arange(2)}
    with pytest.raises(Invalid, match="column x lacks a value in row 2 of 2"):
        Schema.of(rows).check(rows)
    with pytest.raises(Invalid, match="column at lacks a value in row 2 of 2"):
        Schema.of(rows).check({**rows, "x": np.zeros((2, 2))})
    kept = Schema.from_json(Schema.of(rows, nan=True).as_json())
    assert [column.nan for column in kept.columns] == [True, True, False]
    assert np.isnan(kept.check(rows)["x"][1, 1])
    assert {name: len(values) for name, values in complete(rows).items()} == {"x": 1, "at": 1, "i": 1}


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "3",
        '{"x": 3}',
        '{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        '{"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        '{"x": {"dtype": "F32", "shape": [1000000000000, "a"], "data_offsets": [0, 4]}}',
        '{"x": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        '{"x": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        '{"x": ' * 5000,
    ],
)
def test_a_header_from_a_stranger_is_checked(header: str) -> None:
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(4)
    with pytest.raises(Invalid, match="shard 7"):
        decode_shard("shard 7", data, Schema.of({"x": np.zeros(1, np.float32)}), 1)


def test_damaged_shards_are_refused_or_read_never_worse() -> None:
    schema = Schema.of(columns(), nan=True)
    good = encode_shard(schema.check(columns()))
    random = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(good)
        for place in random.integers(0, len(good) // 2, random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        with suppress(Invalid):
            assert list(decode_shard("shard 7", bytes(damaged), schema, 3)) == schema.names


def test_what_the_library_writes_is_what_is_read() -> None:
    arrays = {name: np.arange(6).reshape(2, 3).astype(name) for name in NUMBERS}
    schema = Schema.of(arrays)
    found = decode_shard("shard 7", encode_shard(schema.check(arrays)), schema, 2)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
