"""The whole pipeline against a real server: one digest, gates, aliases, drift, deployed models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from redisai_py import Client
from redisai_py.artifacts import Artifacts, Predictions
from redisai_py.pipeline import Features
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.gates import GateFailed
from redisai_py.pipeline.run import Pipeline
from tests.pipeline.tables import define, patients, write_csv

IGNORE = {"ignore": ["id", "price"]}


def ill(**parts: dict[str, object]) -> Definition:
    return define("csv:patients.csv", "ill", "xgboost.classifier", dataset=IGNORE, **parts)


def test_the_same_definition_is_the_same_version(client: Client, folder: Path) -> None:
    definition = ill(artifact={"promote": ["production"]}, evaluate={"gate": {"accuracy_vs": {"@production": ">=0"}}})
    one, two = (Pipeline(definition, client, folder).run().version for _ in range(2))
    assert (one.version, one.digest) == (two.version, two.digest)
    again = Definition.from_toml(definition.as_toml())
    assert Pipeline(again, client, folder).run().version.digest == one.digest
    other = replace(definition, model=replace(definition.model, seed=1, params={"n_estimators": 11}))
    assert Pipeline(other, client, folder).run().version.version == 2


def test_what_the_artifact_holds(client: Client, folder: Path) -> None:
    version = Pipeline(ill(), client, folder).run().version
    artifact = Artifacts(client).get(str(version))
    assert {
        "model.onnx", "predictions.parquet", "metrics.json", "analysis.json", "environment.json", "definition.toml",
        "train.parquet", "test.parquet", "schema.json", "report.html", "model-confusion.png", "model-importances.png",
    } == set(artifact.titles)  # fmt: skip
    analysis = json.loads(artifact.read("analysis.json"))["ill"]
    assert np.sum(analysis["confusion"]) == 48
    assert analysis["rows"] == {"train": 192, "test": 48}
    page = artifact.read("report.html").decode()
    assert "accuracy" in page
    assert "data:image/png;base64," in page
    assert artifact.read("model-confusion.png").startswith(b"\x89PNG")
    assert Definition.from_toml(artifact.read("definition.toml").decode()) == ill()


def test_predictions_of_the_deployed_model_are_the_trained_model_s(client: Client, folder: Path) -> None:
    result = Pipeline(ill(deploy={"key": "ill"}), client, folder).run()
    assert result.deployed[0].parity[0].rows == 48
    artifact = Artifacts(client).get(str(result.version))
    kept = Predictions.from_parquet(artifact.read("predictions.parquet"))
    features = Features.from_json(json.loads(artifact.read("schema.json"))["features"])
    (evaluation,) = result.evaluations
    sides = Pipeline(ill(), None, folder).sides
    tensors = features.tensors(sides.test)
    dag = client.dag(routing="ill", readonly=True)
    for name, values in tensors.items():
        dag.tensorset(name, values.astype(str) if values.dtype.kind == "O" else values)
    dag.modelexecute("ill", list(tensors), ["label", "probabilities"]).tensorget("label").tensorget("probabilities")
    labels, probabilities = dag.execute()[-2:]
    assert [str(label) for label in labels.tolist()] == kept.outputs["label"].tolist()
    np.testing.assert_allclose(probabilities, kept.outputs["probabilities"], atol=1e-5)
    assert evaluation.tested.predictions.rows == kept.rows == 48


def test_several_targets_are_several_models(client: Client, folder: Path) -> None:
    definition = define(
        "csv:patients.csv",
        ["price", "weight"],
        "lightgbm.regressor",
        dataset={"ignore": ["id", "ill"]},
        deploy={"key": "two"},
    )
    result = Pipeline(definition, client, folder).run()
    artifact = Artifacts(client).get(str(result.version))
    assert {"model-price.onnx", "model-weight.onnx", "predictions-model-price.onnx.parquet"} <= set(artifact.titles)
    assert {done.key for done in result.deployed} == {"two:price", "two:weight"}
    assert {"price.rmse", "weight.rmse"} <= set(result.metrics)


def test_a_gate_that_fails_publishes_nothing(client: Client, bare: redis.Redis, folder: Path) -> None:
    with pytest.raises(GateFailed, match=r"accuracy must be >= 0.9999, and is 0\.\d+"):
        Pipeline(ill(evaluate={"gate": {"accuracy": ">=0.9999"}}), client, folder).run()
    assert list(bare.scan_iter("*")) == []


def test_a_version_that_is_worse_than_production_is_refused(client: Client, folder: Path) -> None:
    gate = {"gate": {"accuracy_vs": {"@production": ">=-0.01"}}}
    good = ill(artifact={"promote": ["production"]}, evaluate=gate)
    Pipeline(good, client, folder).run()
    bad = replace(good, dataset=replace(good.dataset, features=("weight",), ignore=()))
    with pytest.raises(GateFailed, match=r"accuracy minus that of @production must be >= -0.01, and is -0"):
        Pipeline(bad, client, folder).run()
    assert [v.version for v in Artifacts(client).versions("made")] == [1]


def test_drift_against_the_rows_of_production(client: Client, folder: Path, tmp_path: Path) -> None:
    promoted = ill(artifact={"promote": ["production"]})
    Pipeline(promoted, client, folder).run()
    older = patients()
    older["age"] = [age + 40 for age in older["age"]]
    write_csv(tmp_path / "patients.csv", older)
    (evaluation,) = Pipeline(promoted, client, tmp_path).evaluations
    drift = evaluation.analysis["drift"]
    assert next(iter(drift)) == "age"
    assert drift["age"] > 0.25
    assert drift["city"] < 0.1
    (same,) = Pipeline(promoted, client, folder).evaluations
    assert "drift" not in same.analysis


def test_steps_are_told(client: Client, folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    pipeline = Pipeline(ill(), client, folder, progress=lambda *step: told.append(step))
    pipeline.run()
    assert [step for step, _, _ in told] == pipeline.steps == ["load", "split", "train ill", "evaluate ill", "publish"]
    assert [number for _, number, _ in told] == [0, 1, 2, 3, 4]


def test_without_a_redis_nothing_is_published(folder: Path) -> None:
    from redisai_py.artifacts import Invalid

    with pytest.raises(Invalid, match="publishing needs a Redis"):
        Pipeline(ill(), None, folder).run()


def test_notebooks_show_artifacts_and_data_sets(client: Client, folder: Path) -> None:
    from redisai_py.artifacts import Store
    from redisai_py.datasets.dataset import Dataset
    from redisai_py.pipeline.source import upload

    pipeline = Pipeline(ill(), client, folder)
    version = pipeline.run().version
    assert "report.html" in Artifacts(client).get(str(version))._repr_html_()
    store = Store(client)
    dataset = Dataset.open(store, upload(ill(), store, folder).dataset.place)
    assert "240 rows" in dataset._repr_html_()
    assert "<td>city</td><td>string</td>" in dataset._repr_html_()
    assert "xgboost.classifier for ill: classification, 2 classes, 192 rows" in pipeline.models[0]._repr_html_()
