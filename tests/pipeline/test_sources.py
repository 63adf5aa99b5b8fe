"""Rows from archives, object stores and artifacts: the same rows as from a file, and errors that name what is wrong."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis

from redisai_py import Client
from redisai_py.artifacts import ArchiveError, Artifacts, Invalid, Missing, Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.split import Split
from redisai_py.datasets.writer import put
from redisai_py.datasets.writer import split as split_dataset
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.run import Pipeline
from redisai_py.pipeline.source import Table, load, split, upload
from tests.artifacts.conftest import BUCKET, credentials, s3  # noqa: F401  # fixtures
from tests.pipeline.tables import define

pytest.importorskip("obstore")

LOGISTIC = "sklearn.logistic"
IGNORE = {"ignore": ["id", "price"]}


def ill(source: str) -> Definition:
    return define(source, "ill", LOGISTIC, dataset=IGNORE)


def as_texts(table: Table) -> dict[str, list[str]]:
    return {name: [str(value) for value in values.tolist()] for name, values in table.columns.items()}


@pytest.fixture
def local(folder: Path) -> Table:
    return load(ill("csv:patients.csv"), None, folder)


@pytest.fixture(params=["file", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, bare: redis.Redis, local: Table) -> str:
    """URL of one with the data set `patients`: version 1 as it is, version 2 with sides. Redis is empty then."""
    if request.param == "s3":
        request.getfixturevalue("credentials")
    url = f"s3://{BUCKET}/{os.urandom(4).hex()}" if request.param == "s3" else f"file://{tmp_path}/archive"
    store = Store(bare)
    version = put(store, "patients", local.columns, nan="keep", aliases=["raw"])
    split_dataset(store, Dataset.open(store, str(version)), Split(test=0.25, seed=2))
    with Artifacts(bare) as artifacts:
        artifacts.push(["patients"], url, kind="dataset")
    bare.flushall()
    return url


@pytest.mark.parametrize("reference", ["patients:1", "patients@raw"])
def test_a_data_set_of_an_archive(archive: str, local: Table, reference: str, bare: redis.Redis) -> None:
    table = load(ill(f"{archive}#{reference}"))
    assert as_texts(table) == as_texts(local)
    assert table.side is None
    assert bare.dbsize() == 0  # it is read from there, without a Redis


def test_the_newest_and_its_sides(archive: str, bare: redis.Redis) -> None:
    definition = ill(f"{archive}#patients")
    definition = Definition.from_value({n: v for n, v in definition.as_value().items() if n != "split"})
    table = load(definition)
    assert table.side is not None
    assert (int(table.side.sum()), table.rows) == (60, 240)
    sides = split(definition, table)
    placed = upload(definition, Store(bare))
    again = split(placed, load(placed, Store(bare)))
    for one, other in ((sides.train, again.train), (sides.test, again.test)):
        assert [str(value) for value in one["weight"].tolist()] == [str(value) for value in other["weight"].tolist()]


def test_the_same_table_in_an_object_store(credentials: str, folder: Path, local: Table) -> None:  # noqa: F811
    content = (folder / "patients.csv").read_bytes()
    request = urllib.request.Request(
        f"{credentials}/{BUCKET}/tables/patients.csv", content, {"Content-Type": "text/csv"}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=20).close()
    for source in (f"s3://{BUCKET}/tables/patients.csv", f"file://{folder}/patients.csv"):
        table = load(ill(source))
        assert as_texts(table) == as_texts(local)
        assert table.digest == local.digest


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("#patient", Missing, "has no dataset patient; did you mean patients"),
        ("#patients:7", Missing, "it has patients:1 @raw, patients:2"),
        ("#patients@rawe", Missing, "it has patients:1 @raw"),
        ("#patients:x", Invalid, "expected a version number after the colon"),
        ("", Invalid, "names neither a table nor a data set"),
        ("/no.csv", Missing, "there is no .*/no.csv"),
    ],
)
def test_what_an_archive_does_not_hold(archive: str, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load(ill(f"{archive}{name}"))


def test_archives_that_are_not_there(tmp_path: Path, credentials: str) -> None:  # noqa: F811
    with pytest.raises(Missing, match="there is no folder"):
        load(ill(f"file://{tmp_path}/absent#patients"))
    assert not (tmp_path / "absent").exists()
    with pytest.raises(Missing, match="it holds no data sets"):
        load(ill(f"file://{tmp_path}#patients"))
    with pytest.raises((Missing, ArchiveError), match="no-such-bucket"):
        load(ill("s3://no-such-bucket/prefix#patients"))
    for wrong in ("s3:bucket/x.csv", "s3://", "file:x.csv", "http://host/x.csv", "artifact:"):
        with pytest.raises(Invalid, match="it must be one of"):
            ill(wrong)


def test_the_rows_of_an_artifact(client: Client, folder: Path) -> None:
    first = Pipeline(ill("csv:patients.csv"), client, folder).run()
    value: dict[str, Any] = ill(f"artifact:made:{first.version.version}").as_value()
    value.pop("split", None)
    value["artifact"] = {"name": "again"}
    value["model"] = {"builder": "xgboost.classifier"}
    second = Pipeline(Definition.from_value(value), client).run()
    one, two = (Artifacts(client).get(str(result.version)) for result in (first, second))
    for title in ("train.parquet", "test.parquet"):
        assert one.read(title) == two.read(title)
    assert one.manifest.config != two.manifest.config


def test_artifacts_that_hold_no_rows(bare: redis.Redis) -> None:
    store = Store(bare)
    with pytest.raises(Missing, match="there is no artifact nothing"):
        load(ill("artifact:nothing"), store)
    with store.lease() as lease:
        layer = store.put_layer(b"x", "application/x", "other", lease)
        store.commit("artifact", "bare", store.manifest({}, [layer], lease), lease)
    with pytest.raises(Missing, match=r"artifact bare:1 holds no train.parquet; it holds other"):
        load(ill("artifact:bare"), store)
    with pytest.raises(Invalid, match="artifact:bare needs a Redis to read from"):
        load(ill("artifact:bare"))
