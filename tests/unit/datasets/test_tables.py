"""Tables in files: each peculiarity of a file has one meaning, or is an error that names it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.tables import read_table, table_format, write_table


@pytest.fixture
def csv(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_types_of_csv(csv: Any) -> None:
    found = read_table(csv('i,f,b,t,d,s,clock\n1,1.5,true,2024-02-29,2024-02-29T10:00:00Z,"a,\nb",12:30:00\n'))
    types = {column.name: column.type for column in Schema.of(found).columns}
    assert types == {
        "i": "int64", "f": "float64", "b": "bool", "t": "datetime", "d": "datetime", "s": "string", "clock": "string",
    }  # fmt: skip
    assert found["s"].tolist() == ["a,\nb"]
    assert found["d"][0] == np.datetime64("2024-02-29T10:00")
    assert found["clock"].tolist() == ["12:30:00"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "t.csv: the file is empty"),
        ("\n\n", "t.csv: .*[Ee]mpty"),
        ("a,b\n", "t.csv: there are no rows"),
        ("a,a\n1,2\n", "2 columns have the name a"),
        (",a\n0,1\n", "column 1 has no name.*index=False"),
        ("a\n1\n2\nabc\n", "column a holds several types: a number in row 1, '1', a text in row 3, 'abc'.*type string"),
        ("a\n2024-01-01\nsoon\n", "a time in row 1, '2024-01-01', a text in row 2, 'soon'"),
        ("a\n1\n2024-01-01\n", "a number in row 1, '1', a time in row 2"),
        ("a\n2024-01-01T10:00:00Z\n2024-01-01 10:00:00\n", "and times of other forms"),
        ("a,b\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("a,b\n1,2\n3,\n", "column b lacks a value in row 2 of 2; such rows"),
        (b"a\n\xff\n", "column a holds bytes that are not UTF-8"),
    ],
)
def test_what_csv_is_refused(csv: Any, text: str, error: str) -> None:
    with pytest.raises(Invalid, match=error):
        read_table(csv(text))


@pytest.mark.parametrize("mark", ["", "NA", "NaN", "null", "?", "-"])
def test_missing_values_of_csv(csv: Any, mark: str) -> None:
    path = csv(f"i,t,s\n1,2024-01-01,x\n{mark},{mark},{mark}\n3,2024-01-03,\n")
    with pytest.raises(Invalid, match="column i lacks a value in row 2 of 3"):
        read_table(path)
    kept = read_table(path, nan="keep")
    np.testing.assert_array_equal(kept["i"], [1, np.nan, 3])
    assert np.isnat(kept["t"]).tolist() == [False, True, False]
    assert kept["s"].tolist() == ["x", mark, ""]  # in texts every text is itself: NA is Namibia, too
    dropped = read_table(path, nan="drop")
    assert (dropped["i"].dtype, dropped["i"].tolist()) == (np.int64, [1, 3])
    assert dropped["s"].tolist() == ["x", ""]
    with pytest.raises(Invalid, match="every row lacks a value"):
        read_table(csv("a,b\n1,\n,2\n"), nan="drop")


def test_types_that_are_said(csv: Any) -> None:
    path = csv("zip,label,x,y\n01234,0,0.5,1.5\n99999,1,1.5,2.5\n")
    found = read_table(path, types={"zip": "string", "label": "uint8", "*": "float32"})
    assert found["zip"].tolist() == ["01234", "99999"]
    assert [found[name].dtype.name for name in ("label", "x", "y")] == ["uint8", "float32", "float32"]
    assert list(read_table(path, columns=["y", "zip"])) == ["zip", "y"]
    mixed = csv("a\n1\nabc\n", "mixed.csv")
    assert read_table(mixed, types={"a": "string"})["a"].tolist() == ["1", "abc"]
    for types, error in (
        ({"nope": "string"}, "no column nope"),
        ({"zip": "uint8"}, "uint8"),
        ({"x": "int64"}, "int64"),
        ({"x": "text"}, "column x: unknown type text; use one of"),
    ):
        with pytest.raises(Invalid, match=error):
            read_table(path, types=types)
    with pytest.raises(Invalid, match="no column nope; columns: zip, label"):
        read_table(path, columns=["nope"])


def test_a_thousand_columns_and_other_kinds_of_csv(csv: Any) -> None:
    names = [f"c{number}" for number in range(1000)]
    path = csv("\n".join([",".join(names), *[",".join(["0.5"] * 1000)] * 3]))
    found = read_table(path)
    assert (list(found), {values.shape for values in found.values()}) == (names, {(3,)})
    assert Schema.of(found).check(found)["c999"].tolist() == [0.5] * 3
    assert read_table(csv("\ufeffa\tb\r\n1\t2\r\n", "t.tsv"))["b"].tolist() == [2]
    assert read_table(csv(gzip.compress(b"a\n1\n"), "t.CSV.GZ"))["a"].tolist() == [1]
    assert read_table(csv("a\n1\n" * 1 + "2.5\n" * 400_000))["a"][-1] == 2.5  # types are those of all rows
    with pytest.raises(Invalid, match=r"supported: \.csv"):
        table_format("t.xlsx")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "big": pa.array([1 << 60, 1, 2]),
            "s": pa.array(["a", None, "a"]).dictionary_encode(),
            "when": pa.array([0, 1, None], pa.timestamp("ns", "Europe/Berlin")),
            "image": pa.array([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], pa.list_(pa.list_(pa.float32()))),
            "money": pa.array([1, 2, 3], pa.decimal128(10, 2)),
            "none": pa.nulls(3),
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    found = read_table(path, nan="keep")
    np.testing.assert_array_equal(found["i"], [1, np.nan, 3])
    assert found["big"].tolist() == [1 << 60, 1, 2]
    assert found["s"].tolist() == ["a", None, "a"]
    assert found["when"].dtype == np.dtype("datetime64[us]")
    assert (found["image"].shape, found["image"].dtype.name) == ((3, 1, 2), "float32")
    assert (found["money"].tolist(), np.isnan(found["none"]).all()) == ([1, 2, 3], True)
    assert read_table(path, nan="drop", columns=["i", "s"])["i"].dtype == np.int32
    for column, error in (
        (pa.array([[1], [1, 2]]), "lists of 1 to 2 elements"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct.*do not support"),
        (pa.array([b"a", b"b"]), "binary.*do not support"),
        (pa.array([(1 << 60), None]), "too large to be kept as float64"),
        (pa.array([], pa.int64()), "there are no rows"),
    ):
        pq.write_table(pa.table({"x": column}), path)
        with pytest.raises(Invalid, match=error):
            read_table(path, nan="keep")
    path.write_bytes(b"no parquet at all")
    with pytest.raises(Invalid, match="not a readable Parquet file"):
        read_table(path)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, x=np.zeros((3, 2), np.float32), y=np.array([1.0, np.nan, 3.0]), s=np.array(["a", "b", "c"]))
    with pytest.raises(Invalid, match="column y lacks values"):
        read_table(path)
    assert read_table(path, nan="drop")["s"].tolist() == ["a", "c"]
    assert read_table(path, nan="keep", types={"*": "float16"})["y"].dtype == np.float16
    for arrays, error in (
        ({"x": np.zeros(3), "y": np.zeros(4)}, "different numbers of rows: x 3, y 4"),
        ({"x": np.array([1, "a"], object)}, "pickle"),
        ({"x": np.array(3)}, "one value, not one per row"),
        ({"x": np.zeros((0, 3))}, "there are no rows"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(Invalid, match=error):
            read_table(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(Invalid, match="not a readable npz file"):
        read_table(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(Invalid, match="not a readable npz file"):
        read_table(path)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "missing.npz")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.npz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    columns = {
        "i": np.arange(4),
        "f": np.array([0.1, 1e300, -0.0, 3.0]),
        "s": np.array(["a", 'b"\n,', "größe", ""], object),
        "t": np.array(["2020-01-01T10:00:00.000001"] * 4, "datetime64[us]"),
    }
    if "csv" not in name and "tsv" not in name:
        columns["x"] = np.arange(24.0).reshape(4, 2, 3)
    parts = [{key: values[at : at + 2] for key, values in columns.items()} for at in (0, 2)]
    assert write_table(tmp_path / name, parts) == 4
    found = read_table(tmp_path / name)
    assert list(found) == list(columns)
    for key, values in columns.items():
        np.testing.assert_array_equal(found[key], values)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if "csv" in name:
        with pytest.raises(Invalid, match="CSV cannot hold"):
            write_table(tmp_path / name, [{"x": np.zeros((2, 2))}])
        assert [path.name for path in tmp_path.iterdir()] == [name]
