"""What users bring: gaps, new categories, texts, dates, many columns, nothing at all. Each has a clear outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import redis

from redisai_py.artifacts import Invalid, Store
from redisai_py.datasets.split import Split
from redisai_py.datasets.writer import put
from redisai_py.datasets.writer import split as split_dataset
from redisai_py.pipeline.run import Pipeline, check
from redisai_py.pipeline.source import Sides, check_sides, load, split, upload
from tests.pipeline.tables import define, patients, write_csv

LOGISTIC, RIDGE = "sklearn.logistic", "sklearn.ridge"


def run(tmp_path: Path, columns: dict[str, Any], target: str | list[str], builder: str, **parts: Any) -> Pipeline:
    write_csv(tmp_path / "table.csv", columns)
    return Pipeline(define("csv:table.csv", target, builder, **parts), None, tmp_path)


def predict(pipeline: Pipeline, rows: dict[str, Any]) -> dict[str, Any]:
    """By ONNX Runtime, of rows that nobody has seen before."""
    evaluation = pipeline.evaluations[0]
    tensors = evaluation.model.preparation.features.tensors(rows)
    session = onnxruntime.InferenceSession(evaluation.tested.blob, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, tensors), strict=True))
    expected = evaluation.model.outputs(tensors)
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
        else:
            assert found[name].tolist() == values.tolist()
    return found


def test_gaps_new_categories_and_dates_in_use(folder: Path) -> None:
    definition = define("csv:patients.csv", "ill", LOGISTIC, dataset={"ignore": ["id", "price"]})
    pipeline = Pipeline(definition, None, folder)
    rows = {
        "age": [30.0, np.nan, 80.0],
        "city": ["Oslo", "Atlantis", ""],
        "since": np.array(["2020-01-01", "NaT", "2035-06-01T12:00"], "datetime64[us]"),
        "weight": [np.nan, np.nan, 70.0],
    }
    found = predict(pipeline, rows)
    assert found["label"][0] == "no"
    assert np.isfinite(found["probabilities"]).all()


def test_rows_of_other_kinds_are_named(folder: Path) -> None:
    definition = define("csv:patients.csv", "ill", LOGISTIC, dataset={"features": ["age", "city"]})
    features = Pipeline(definition, None, folder).sides.features
    with pytest.raises(Invalid, match="column city is missing"):
        features.tensors({"age": [1.0]})
    with pytest.raises(Invalid, match=r"column age holds .*; the model learned from numbers"):
        features.tensors({"age": ["old"], "city": ["Rome"]})
    with pytest.raises(Invalid, match="column city holds int64; the model learned from strings"):
        features.tensors({"age": [1.0], "city": np.array([3])})
    with pytest.raises(Invalid, match="column age is infinite, or beyond what FLOAT holds, in row 2"):
        features.tensors({"age": [1.0, 1e39], "city": ["Rome", "Rome"]})


def test_a_thousand_columns(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    x = chance.normal(size=(120, 1000)).round(3)
    columns = {f"c{k}": x[:, k].tolist() for k in range(1000)} | {"y": (x[:, 7] * 3).round(3).tolist()}
    (evaluation,) = run(tmp_path, columns, "y", "xgboost.regressor").evaluations
    assert evaluation.tested.predictions.inputs["numbers"].shape == (24, 1000)
    assert next(iter(evaluation.analysis["importances"])) == "c7"


def test_a_rare_category_counts_as_unknown(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"t": [f"v{k % 30}" for k in range(300)], "y": [k % 30 for k in range(300)]}
    pipeline = run(tmp_path, columns, "y", RIDGE, model={"max_categories": 5})
    (model,) = pipeline.models
    assert [len(known) for known in model.preparation.categories] == [5]
    assert "t has 30 values, of which the 5 most frequent are told apart" in model.notes
    (known,) = model.preparation.categories
    rare = next(f"v{k}" for k in range(30) if f"v{k}" not in known)
    found = predict(pipeline, {"t": [rare, "never seen", known[0]]})
    assert found["value"][1] == pytest.approx(found["value"][0])
    assert found["value"][2] != pytest.approx(found["value"][0])


@pytest.mark.parametrize(
    ("columns", "target", "builder", "says"),
    [
        ({"x": [1, 2, 3, 4], "y": ["a", "a", "a", "a"]}, "y", LOGISTIC, "has one class only, 'a'"),
        ({"x": [1, 2, 3, 4], "y": ["a", "b", "c", "d"]}, "y", RIDGE, "y holds object; .* use a classifier"),
        ({"x": [1, 2, 3, 4], "y": [0.5, 1.5, 2.5, 3.5]}, "y", LOGISTIC, "with fractions; .* use a regressor"),
        ({"x": [1, 2, 3, 4], "y": ["", "", "", ""]}, "y", RIDGE, "y: no row has a value to learn from"),
        ({"y": [1, 2, 3, 4]}, "y", RIDGE, "no column is left to predict from"),
        ({"x": [1, 2, 3, 4], "y": [1, 2, 3, 4]}, "z", RIDGE, "has no column z; "),
        ({"x": [1, 2], "y": [5, 6]}, "y", RIDGE, None),
        ({"x": [], "y": []}, "y", RIDGE, "there are no rows"),
        ({"x": [1, "two", 3], "y": [1, 2, 3]}, "y", RIDGE, "column x holds several types"),
        ({"x": ["inf", 1, 2, 3, 4, 5], "y": [1, 2, 3, 4, 5, 6]}, "y", RIDGE, "column x is infinite"),
    ],
)
def test_tables_that_teach_nothing(tmp_path: Path, columns: Any, target: str, builder: str, says: str | None) -> None:
    pipeline = run(tmp_path, columns, target, builder)
    if says is None:
        assert pipeline.evaluations[0].metrics["rmse"] >= 0
        return
    with pytest.raises(Invalid, match=says):
        _ = pipeline.evaluations


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    with pytest.raises(Invalid, match="the file is empty"):
        load(define("csv:table.csv", "y", RIDGE), None, tmp_path)
    with pytest.raises(Invalid, match="there is no such file"):
        load(define("csv:nothing.csv", "y", RIDGE), None, tmp_path)


def test_a_target_that_is_missing_in_some_rows(folder: Path, tmp_path: Path) -> None:
    columns = patients()
    columns["price"] = ["" if k % 3 == 0 else value for k, value in enumerate(columns["price"])]
    columns["weight"] = ["" if k % 6 == 0 else value for k, value in enumerate(columns["weight"])]
    pipeline = run(tmp_path, columns, ["price", "weight"], RIDGE, dataset={"ignore": ["id", "ill"]})
    assert "42 rows lack every target and are left out" in pipeline.sides.notes
    prices, weights = pipeline.models
    assert prices.rows < weights.rows < 240 - 42
    assert any("rows for training lack price and are left out" in note for note in prices.notes)
    assert {each.model.target for each in pipeline.evaluations} == {"price", "weight"}


def test_a_class_that_training_has_not(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "when": list(range(40)),
        "x": [k % 2 for k in range(40)],
        "y": ["new" if k > 36 else "ab"[k % 2] for k in range(40)],
    }
    (evaluation,) = run(tmp_path, columns, "y", LOGISTIC, split={"by": "when"}).evaluations
    assert evaluation.analysis["unknown_classes"] == 3
    assert evaluation.metrics["accuracy"] == pytest.approx(5 / 8)
    assert "log_loss" not in evaluation.metrics


# -- sides and leaks ---------------------------------------------------------------------------------------------------


def test_by_time_nothing_is_shuffled(folder: Path) -> None:
    sides = check(
        define("csv:patients.csv", "ill", LOGISTIC, split={"by": "since"}, dataset={"ignore": ["price"]}), None, folder
    )
    assert sides.train["since"].max() < sides.test["since"].min()
    assert "since" not in [item.name for item in sides.features.items]


def test_a_group_is_on_one_side(folder: Path) -> None:
    sides = check(define("csv:patients.csv", "ill", LOGISTIC, split={"group": "city"}), None, folder)
    assert not set(sides.train["city"]) & set(sides.test["city"])


def _sides(definition: Any, train: dict[str, Any], test: dict[str, Any]) -> Sides:
    from redisai_py.pipeline.features import Features

    arrays = [{name: np.array(values) for name, values in part.items()} for part in (train, test)]
    features = Features.choose(arrays[0], ("*",), definition.dataset.targets)
    return check_sides(definition, Sides(features, arrays[0], arrays[1], "sha256:0"))


def test_rows_on_the_wrong_side_are_a_leak() -> None:
    by_time = define("csv:x.csv", "y", RIDGE, split={"by": "t"})
    with pytest.raises(Invalid, match="leak: by t, rows for testing are not all later"):
        _sides(by_time, {"t": [1, 3], "y": [1, 2]}, {"t": [3, 4], "y": [1, 2]})
    by_group = define("csv:x.csv", "y", RIDGE, split={"group": "g"})
    with pytest.raises(Invalid, match="leak: g '3' has rows for training and rows for testing"):
        _sides(by_group, {"g": [1, 3], "y": [1, 2]}, {"g": [3, 4], "y": [1, 2]})


def test_a_copy_of_the_target_is_a_leak(tmp_path: Path) -> None:
    columns = {"x": [1, 2, 3, 4, 5] * 4, "copy": [0, 1, 2, 3, 4] * 4, "y": [0, 1, 2, 3, 4] * 4}
    with pytest.raises(Invalid, match="leak: feature copy is a copy of the target y; ignore it"):
        _ = run(tmp_path, columns, "y", RIDGE).sides


def test_duplicates_across_the_sides_are_counted(tmp_path: Path) -> None:
    columns = {"x": [1, 1, 2, 2] * 10, "z": list("abcd") * 10, "y": [1, 2, 3, 5] * 10}
    sides = run(tmp_path, columns, "y", RIDGE).sides
    assert sides.duplicates == 8
    assert "8 of 8 rows for testing are copies of rows for training" in sides.notes


# -- sources -----------------------------------------------------------------------------------------------------------


def test_a_data_set_in_redis(bare: redis.Redis, folder: Path) -> None:
    store = Store(bare)
    local = define("csv:patients.csv", "ill", LOGISTIC, dataset={"ignore": ["id", "price"]})
    placed = upload(local, store, folder)
    assert placed.dataset.source == "redis:made:1"
    assert upload(local, store, folder) == placed
    one, other = (split(d, load(d, store, folder)) for d in (local, placed))
    for name in one.train:
        assert [str(v) for v in one.train[name].tolist()] == [str(v) for v in other.train[name].tolist()]


def test_a_data_set_that_has_sides_keeps_them(bare: redis.Redis) -> None:
    store = Store(bare)
    put(store, "clicks", {"x": np.arange(10.0), "y": np.arange(10.0) ** 2})
    from redisai_py.datasets.dataset import Dataset

    version = split_dataset(store, Dataset.open(store, "clicks"), Split(test=0.3, seed=4))
    definition = define("redis:clicks", "y", RIDGE)
    sides = split(definition, load(definition, store))
    assert sides.digest == version.digest
    wanted = Dataset.open(store, str(version)).read("test")["x"]
    assert sides.test["x"].tolist() == wanted.tolist()


def test_columns_of_arrays(bare: redis.Redis) -> None:
    store = Store(bare)
    chance = np.random.default_rng(2)
    pixels = chance.normal(size=(60, 4, 4)).astype(np.float32)
    put(store, "images", {"pixels": pixels, "bright": (pixels.mean(axis=(1, 2)) > 0).astype(np.int64)})
    pipeline = Pipeline(define("redis:images", "bright", LOGISTIC), bare)
    (evaluation,) = pipeline.evaluations
    assert evaluation.tested.predictions.inputs["numbers"].shape == (12, 16)
    assert list(evaluation.analysis["importances"]) == ["pixels"]


def test_sources_that_are_not_there() -> None:
    with pytest.raises(Invalid, match=r"there is no data set sklearn:irs; did you mean iris\?"):
        load(define("sklearn:irs", "target", LOGISTIC))
    with pytest.raises(Invalid, match="redis:x needs a Redis to read from"):
        load(define("redis:x", "target", LOGISTIC))
