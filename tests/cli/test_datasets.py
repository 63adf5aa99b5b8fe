"""`redisai dataset` against a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from redisai_py.artifacts import Store
from redisai_py.cli.dataset_options import bytes_of, split_files, window_of
from redisai_py.cli.failures import UsageError
from redisai_py.datasets.tail import Window
from tests.cli.conftest import Redisai


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rides.csv"
    lines = [f"{i},{i / 2},{'ab'[i % 2]},2024-01-{i % 28 + 1:02d}" for i in range(200)]
    path.write_text("\n".join(["id,km,kind,day", *lines]) + "\n")
    return path


def test_from_a_table_and_back(redisai: Redisai, table: Path, tmp_path: Path) -> None:
    put = redisai("dataset", "put", "rides", table, "--type", "km=float32", "--alias", "raw")
    assert (put.code, put.stderr) == (0, "")
    assert put.stdout.startswith("rides:1: 200 rows, 1 shard, ")
    again = redisai("dataset", "put", "rides", table, "--type", "*=float32", "--json").document
    assert (again["version"], again["rows"], again["shards"], again["splits"]) == (1, 200, 1, {})
    split = redisai("dataset", "split", "rides@raw", "--test", "0.25", "--stratify", "kind", "--alias", "training")
    assert split.stdout.startswith("rides:2: 200 rows, 150 train, 50 test, 2 shards, ")
    head = redisai("dataset", "head", "rides:1", "-n", 2)
    assert [line.split() for line in head.stdout.splitlines()] == [
        ["id", "km", "kind", "day"],
        ["0", "0", "a", "2024-01-01T00:00:00Z"],
        ["1", "0.5", "b", "2024-01-02T00:00:00Z"],
    ]
    assert redisai("dataset", "head", "rides:1", "--rows", 1, "--columns", "km,id", "--json").document == [
        {"id": 0, "km": 0.0}
    ]
    for name in ("out.csv", "out.parquet", "out.npz"):
        got = redisai("dataset", "get", "rides@training", tmp_path / name, "--split", "test", "--json").document
        assert got["rows"] == 50
        assert redisai("dataset", "put", "copy", tmp_path / name, "--type", "km=float32").code == 0
    assert redisai("dataset", "ls", "copy", "--json").document[0]["rows"] == 50
    assert len(redisai("dataset", "ls", "copy", "--json").document) == 1  # all three gave the same rows


def test_what_is_there(redisai: Redisai, table: Path, bare: redis.Redis) -> None:
    nothing = redisai("dataset", "ls")
    assert (nothing.stdout, nothing.stderr) == ("", "no data sets\n")
    redisai("dataset", "put", "rides", table, "--alias", "raw")
    redisai("dataset", "append", "rides", table)
    redisai("dataset", "append", "fresh", table)
    listed = redisai("dataset", "ls", "--json").document
    assert [(row["name"], row["versions"], row["rows"], row["unsealed"]) for row in listed] == [
        ("fresh", 0, 0, 200),
        ("rides", 1, 200, 200),
    ]
    shown = redisai("dataset", "show", "rides", "--json").document
    assert shown["columns"][3] == {"column": "day", "type": "datetime", "shape": [], "nan": False}
    assert (shown["missing"], shown["unsealed"], shown["aliases"]) == (0, 200, ["raw"])
    assert "x smaller than raw" in redisai("dataset", "show", "rides").stdout
    assert redisai("dataset", "verify").stderr == "all bytes are what their digests say\n"
    blob = next(iter(bare.scan_iter("ai:blob:*", _type="string")))
    shards = {Store(bare).keys.blob(s.layer.digest).encode() for s in _shards(bare)}
    bare.delete(*(shards or {blob}))
    assert redisai("dataset", "show", "rides", "--json").document["missing"] == 1
    broken = redisai("dataset", "verify", "rides")
    assert (broken.code, "is not in Redis" in broken.stdout) == (1, True)
    lost = redisai("dataset", "head", "rides")
    assert lost.code == 1
    assert "data set rides:1, shard 0: blob sha256:" in lost.stderr


def _shards(bare: redis.Redis) -> list[object]:
    from redisai_py.datasets.dataset import Dataset

    return Dataset.open(Store(bare), "rides").shards()  # type: ignore[return-value]


def test_appending_and_sealing(redisai: Redisai, table: Path, tmp_path: Path) -> None:
    assert redisai("dataset", "append", "rides", table, table, "--json").document["rows"] == 400
    sealed = redisai("dataset", "seal", "rides", "--json").document
    assert (sealed["version"], sealed["rows"], sealed["shards"]) == (1, 400, 1)
    assert redisai("dataset", "seal", "rides").code == 1
    # The schema says what the columns of a CSV are, whose numbers may look like integers.
    whole = tmp_path / "whole.csv"
    whole.write_text("id,km,kind,day\n1,2,7,2024-01-01\n")
    assert redisai("dataset", "append", "rides", whole, "--keep", "1e3").stdout == "rides: 1 row appended in 1 shard\n"
    for text, said in (
        ("id,km,kind\n1,2,a\n", "missing day"),
        ("id,km,kind,day\n1,,a,2024-01-01\n", "column km lacks a value in row 1"),
        ("id,km,kind,day\n1,x,a,2024-01-01\n", "invalid value 'x'"),
        ("id,km,kind,day,more\n1,2,a,2024-01-01,1\n", "has more, which is not in it"),
    ):
        whole.write_text(text)
        refused = redisai("dataset", "append", "rides", whole)
        assert (refused.code, said in refused.stderr) == (2, True), refused.stderr
    assert redisai("dataset", "ls", "--json").document[0]["unsealed"] == 1
    assert redisai("dataset", "seal", "rides", "--keep", "1", "--json").document["rows"] == 1


def test_versions_are_removed_and_promoted(redisai: Redisai, table: Path) -> None:
    redisai("dataset", "put", "rides", table)
    assert redisai("dataset", "promote", "rides:1", "good").stdout == "rides@good is rides:1\n"
    refused = redisai("dataset", "rm", "rides:1")
    assert (refused.code, "rides@good points to rides:1" in refused.stderr) == (1, True)
    redisai("dataset", "split", "rides")
    assert redisai("dataset", "rm", "rides:2", "--json").document == {"removed": ["rides:2"]}
    assert redisai("artifact", "gc", "--json").document["removed"] > 0
    assert redisai("dataset", "head", "rides").code == 0


def test_an_archive_keeps_data_sets_too(redisai: Redisai, table: Path, tmp_path: Path, bare: redis.Redis) -> None:
    pytest.importorskip("obstore")
    redisai("dataset", "put", "rides", table)
    kept = tmp_path / "archive"
    assert redisai("artifact", "push", "rides", kept, "--kind", "dataset").code == 0
    assert redisai("dataset", "verify", "rides", "--archive", kept).code == 0
    bare.flushall()
    assert redisai("artifact", "pull", kept, "rides", "--kind", "dataset").code == 0
    assert redisai("dataset", "show", "rides", "--json").document["rows"] == 200


def test_several_files_are_splits(redisai: Redisai, table: Path) -> None:
    put = redisai("dataset", "put", "rides", f"train={table}", f"test={table}", "--json").document
    assert put["splits"] == {"train": 200, "test": 200}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("put", "rides", "missing.csv"), 2, "missing.csv: No such file"),
        (("put", "rides", "TABLE", "--nan", "ignore"), 2, "--nan ignore: use refuse, drop or keep"),
        (("put", "rides", "TABLE", "--codec", "lz4"), 2, "--codec lz4: use zstd or none"),
        (("put", "rides", "TABLE", "--type", "km"), 2, "--type km: COLUMN=TYPE"),
        (("put", "rides", "TABLE", "--type", "km=real"), 2, "unknown type real; use one of bool"),
        (("put", "rides", "TABLE", "--type", "miles=int8"), 2, "no column miles"),
        (("put", "a b", "TABLE"), 2, "is not a name"),
        (("put", "rides", "TABLE", "TABLE"), 2, "several are given as train=A test=B"),
        (("show", "rides"), 1, "there is no dataset rides"),
        (("head", "rides:x"), 2, "expected a version number"),
        (("seal", "rides"), 1, "there is no dataset rides"),
        (("append", "rides", "TABLE", "--keep", "soon"), 2, "--keep soon: a number of rows"),
        (("get", "rides", "out.xlsx"), 2, "cannot tell the format from the name"),
    ],
)
def test_what_is_wrong_is_said(redisai: Redisai, table: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = redisai("dataset", *(str(table) if word == "TABLE" else word for word in arguments))
    assert (done.code, said in done.stderr) == (code, True), done.stderr
    assert redisai("dataset", "ls", "--json").document == []


def test_values_of_options() -> None:
    assert window_of("1e6") == Window(rows=1_000_000)
    assert window_of("90m") == Window(age_s=5400)
    assert window_of(None) is None
    assert bytes_of("--shard-bytes", "512KiB") == 512 * 1024
    assert split_files(["train=a=b.csv", "test=c.csv"]) == {"train": "a=b.csv", "test": "c.csv"}
    for text in ("0", "-1", "1y", "", "0d", "1e99"):
        with pytest.raises(UsageError):
            window_of(text)
    for text in ("0", "1GiB", "x", "1MiBs"):
        with pytest.raises(UsageError):
            bytes_of("--shard-bytes", text)
    with pytest.raises(UsageError):
        split_files(["a.csv", "test=b.csv"])


def test_a_wide_table_is_shown_in_part(redisai: Redisai, tmp_path: Path) -> None:
    path = tmp_path / "wide.npz"
    np.savez(path, **{f"c{i}": np.array([i, np.nan]) for i in range(40)}, image=np.zeros((2, 8, 8), np.float32))
    assert redisai("dataset", "put", "wide", path).code == 2
    assert redisai("dataset", "put", "wide", path, "--nan", "keep").code == 0
    head = redisai("dataset", "head", "wide")
    assert (head.code, len(head.stdout.splitlines()[0].split())) == (0, 12)
    assert head.stderr == "and 29 more columns; --columns says which to print\n"
    assert redisai("dataset", "head", "wide", "--columns", "c1", "--json").document == [{"c1": 1.0}, {"c1": None}]
    assert len(redisai("dataset", "head", "wide", "--columns", "image").stdout.splitlines()[1]) == 60
