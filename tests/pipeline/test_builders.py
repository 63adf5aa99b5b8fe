"""Every builder makes models whose export predicts the same; what cannot is refused with the reason."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from redisai_py.artifacts import Invalid, NotParity
from redisai_py.pipeline.builders import ExportRefused, builder_names
from redisai_py.pipeline.run import Pipeline
from tests.pipeline.tables import define

CLASSIFIERS = [name for name in builder_names() if name.endswith(("classifier", "logistic"))]
REGRESSORS = [name for name in builder_names() if name not in CLASSIFIERS]
WORKING = [name for name in builder_names() if "hist" not in name]


def _pipeline(folder: Path, builder: str, **parts: Any) -> Pipeline:
    target, other = ("ill", "price") if builder in CLASSIFIERS else ("price", "ill")
    ignore = {"dataset": {"ignore": ["id", other]}}
    return Pipeline(define("csv:patients.csv", target, builder, **{**ignore, **parts}), None, folder)


@pytest.mark.parametrize("builder", WORKING)
def test_the_export_predicts_what_the_trained_model_does(folder: Path, builder: str) -> None:
    (evaluation,) = _pipeline(folder, builder).evaluations
    outputs = evaluation.tested.predictions.outputs
    assert evaluation.tested.predictions.rows == 48
    if builder in CLASSIFIERS:
        assert evaluation.tested.difference <= 1e-5
        assert set(outputs["label"].tolist()) == {"yes", "no"}
        np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
        assert evaluation.metrics["accuracy"] > 0.7
    else:
        assert outputs["value"].shape == (48,)
        assert evaluation.metrics["rmse"] < np.std(evaluation.truth) * 1.2
    assert sum(evaluation.analysis["importances"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "builder", ["sklearn.logistic", "xgboost.classifier", "lightgbm.regressor", "torch.mlp_regressor"]
)
def test_training_twice_gives_the_same_bytes(folder: Path, builder: str) -> None:
    first, second = (_pipeline(folder, builder).models[0].to_onnx() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("builder", ["sklearn.hist_gradient_boosting_classifier"])
def test_what_converters_do_not_know_is_refused_with_their_reason(folder: Path, builder: str) -> None:
    with pytest.raises(ExportRefused, match=r"HistGradientBoosting.* cannot be exported to ONNX: ValueError: "):
        _ = _pipeline(folder, builder).evaluations


def test_thresholds_between_two_floats_go_the_same_way(folder: Path, tmp_path: Path) -> None:
    """LightGBM's thresholds are FLOAT64; rounded to the nearest FLOAT some of these rows would change sides."""
    from tests.pipeline.tables import write_csv

    chance = np.random.default_rng(0)
    x = chance.integers(1_000_000, 1_003_000, 600) / 7
    write_csv(tmp_path / "close.csv", {"x": x.tolist(), "y": np.sin(x).tolist()})
    definition = define("csv:close.csv", "y", "lightgbm.regressor", model={"params": {"n_estimators": 60}})
    (evaluation,) = Pipeline(definition, None, tmp_path).evaluations
    assert evaluation.tested.difference < 1e-5


# -- third parties -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanFitted:
    means: Any
    answer: float = 0.0
    operators: int = 17
    notes: Sequence[str] = ("means are all it knows",)

    def predict(self, matrix: Any) -> Any:
        return matrix @ self.means

    def to_onnx(self) -> bytes:
        weights = numpy_helper.from_array((self.means + np.float32(self.answer)).reshape(-1, 1), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "mean",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(self.means)])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
            [weights],
        )
        opset = [helper.make_opsetid("", self.operators)]
        return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())

    def importances(self) -> None:
        return None


@dataclass(frozen=True)
class MeanBuilder:
    """A builder as a third party would write it. off: by how much its export is wrong."""

    task: str = "regression"
    scaled: bool = True
    off: float = 0.0
    operators: int = 17

    def parameters(self) -> Mapping[str, Any]:
        return {"strength": 1.0}

    def fit(self, matrix: Any, target: Any, classes: int, seed: int, params: Mapping[str, Any]) -> MeanFitted:
        assert matrix.dtype == np.float32
        assert not np.isnan(matrix).any()
        weights = np.linalg.lstsq(matrix, target, rcond=None)[0].astype(np.float32)
        return MeanFitted(weights * np.float32(params.get("strength", 1.0)), self.off, self.operators)


GOOD, WRONG, OLD = MeanBuilder(), MeanBuilder(off=0.01), MeanBuilder(operators=11)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as a third party's package has them."""
    real = importlib.metadata.entry_points
    ours = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{value}", "redisai_py.builders")
        for name, value in (
            ("acme.mean", "GOOD"),
            ("acme.wrong", "WRONG"),
            ("acme.old", "OLD"),
            ("acme.none", "CLASSIFIERS"),
        )
    ]

    def listed(**chosen: str) -> Any:
        found = real(**chosen)
        return [*found, *ours] if chosen.get("group") == "redisai_py.builders" else found

    monkeypatch.setattr(importlib.metadata, "entry_points", listed)
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this() -> Any:
    import types

    found = types.ModuleType(__name__)
    found.__dict__.update(globals())
    return found


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("builder", ["acme.mean", "acme.old"])
def test_a_third_party_s_builder(folder: Path, builder: str) -> None:
    (evaluation,) = _pipeline(folder, builder).evaluations
    assert "means are all it knows" in evaluation.analysis["notes"]
    assert next(iter(evaluation.analysis["importances"])) == "age"
    model = onnx.load_from_string(evaluation.tested.blob)
    assert [entry.name for entry in model.graph.input] == ["numbers", "texts"]


@pytest.mark.usefixtures("installed")
def test_a_builder_whose_export_disagrees_is_refused(folder: Path) -> None:
    says = r"the exported model does not predict what the trained one does; price: output value is off by up to .* rows"
    with pytest.raises(NotParity, match=says):
        _ = _pipeline(folder, "acme.wrong").evaluations


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_is_no_builder_is_named(folder: Path) -> None:
    with pytest.raises(Invalid, match=r"CLASSIFIERS, the entry point of acme\.none, is not a builder"):
        _ = _pipeline(folder, "acme.none").models


def test_unknown_builders_and_parameters_name_the_nearest(folder: Path) -> None:
    with pytest.raises(Invalid, match=r"there is no builder xgboost\.clasifier; did you mean xgboost\.classifier\?"):
        _ = _pipeline(folder, "xgboost.clasifier").models
    with pytest.raises(Invalid, match=r"model\.params\.n_estimator is unknown to .*; did you mean n_estimators\?"):
        _ = _pipeline(folder, "xgboost.regressor", model={"params": {"n_estimator": 3}}).models
    with pytest.raises(Invalid, match=r"Ridge refused: .*alpha"):
        _ = _pipeline(folder, "sklearn.ridge", model={"params": {"alpha": -1}}).models


@pytest.mark.parametrize(
    ("builder", "params"),
    [
        ("sklearn.logistic", {"C": "x"}),
        ("lightgbm.classifier", {"num_leaves": 0}),
        ("lightgbm.regressor", {"num_leaves": 1}),
        ("xgboost.classifier", {"max_depth": "deep"}),
    ],
)
def test_parameters_that_a_library_refuses(folder: Path, builder: str, params: Mapping[str, Any]) -> None:
    with pytest.raises(Invalid, match="refused: "):
        _ = _pipeline(folder, builder, model={"params": params}).models
