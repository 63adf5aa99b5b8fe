"""Builders of scikit-learn, exported by skl2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn.ensemble
import sklearn.linear_model
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.pipeline.builders import ExportRefused

__all__ = [
    "FOREST_CLASSIFIER",
    "FOREST_REGRESSOR",
    "GRADIENT_BOOSTING_CLASSIFIER",
    "GRADIENT_BOOSTING_REGRESSOR",
    "HIST_GRADIENT_BOOSTING_CLASSIFIER",
    "HIST_GRADIENT_BOOSTING_REGRESSOR",
    "LOGISTIC",
    "OPSETS",
    "RIDGE",
    "EstimatorBuilder",
    "FittedEstimator",
]

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""Operator sets of the export: every supported ONNX Runtime has them."""
_OURS = ("random_state", "n_jobs", "verbose", "verbosity", "warm_start")

_USUAL = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)

Floats = NDArray[np.float32]


def _convert(model: Any, width: int) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    found = convert_sklearn(
        model, "model", [("matrix", FloatTensorType([None, width]))], target_opset=OPSETS, options=options
    )
    return bytes(found.SerializeToString())


@dataclass(frozen=True)
class FittedEstimator:
    """A trained scikit-learn-style estimator.   convert: exports it to ONNX."""

    model: Any
    width: int
    convert: Callable[[Any, int], bytes] = _convert
    notes: Sequence[str] = ()

    def predict(self, matrix: Floats) -> NDArray[Any]:
        """See `Fitted`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LightGBM warns about column names, which a matrix does not have
            if hasattr(self.model, "predict_proba"):
                return np.asarray(self.model.predict_proba(matrix))
            return np.asarray(self.model.predict(matrix)).reshape(len(matrix))

    def to_onnx(self) -> bytes:
        """See `Fitted`."""
        name = type(self.model).__name__
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.convert(self.model, self.width)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise ExportRefused(f"{name} cannot be exported to ONNX: {type(error).__name__}: {reason}") from error

    def importances(self) -> NDArray[Any] | None:
        """The estimator's own importances, if it has any."""
        if hasattr(self.model, "feature_importances_"):
            return np.asarray(np.abs(self.model.feature_importances_), np.float64)
        if hasattr(self.model, "coef_"):
            return np.asarray(np.abs(self.model.coef_).reshape(-1, self.width).sum(axis=0), np.float64)
        return None


@dataclass(frozen=True)
class EstimatorBuilder:
    """A class with fit, predict and get_params.

    make: the class.   fixed: parameters that users cannot set, or whose default differs here.
    """

    make: Any
    task: str
    scaled: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    convert: Callable[[Any, int], bytes] = _convert

    def parameters(self) -> Mapping[str, Any]:
        """See `Builder`."""
        found = {**self.make().get_params(), **self.fixed}
        return {name: value for name, value in found.items() if name not in _OURS}

    def fit(
        self, matrix: Floats, target: NDArray[Any], classes: int, seed: int, params: Mapping[str, Any]
    ) -> FittedEstimator:
        """See `Builder`. Raises: Invalid: the estimator refuses a parameter."""
        known = self.make().get_params()
        ours = {name: value for name, value in (("random_state", seed), ("n_jobs", 1)) if name in known}
        model = self.make(**{**ours, **self.fixed, **params})
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                model.fit(matrix, target)
            except MemoryError:
                raise
            except Exception as error:  # each library has its own errors
                raise Invalid(f"{self.make.__name__} refused: {' '.join(str(error).split())[:500]}") from error
        notes = sorted(
            {" ".join(str(each.message).split())[:300] for each in told if not issubclass(each.category, _USUAL)}
        )
        return FittedEstimator(model, matrix.shape[1], self.convert, tuple(notes))


_CLASSIFY, _REGRESS = "classification", "regression"
LOGISTIC = EstimatorBuilder(sklearn.linear_model.LogisticRegression, _CLASSIFY, True, {"max_iter": 1000})
RIDGE = EstimatorBuilder(sklearn.linear_model.Ridge, _REGRESS, True)
FOREST_CLASSIFIER = EstimatorBuilder(sklearn.ensemble.RandomForestClassifier, _CLASSIFY)
FOREST_REGRESSOR = EstimatorBuilder(sklearn.ensemble.RandomForestRegressor, _REGRESS)
GRADIENT_BOOSTING_CLASSIFIER = EstimatorBuilder(sklearn.ensemble.GradientBoostingClassifier, _CLASSIFY)
GRADIENT_BOOSTING_REGRESSOR = EstimatorBuilder(sklearn.ensemble.GradientBoostingRegressor, _REGRESS)
HIST_GRADIENT_BOOSTING_CLASSIFIER = EstimatorBuilder(sklearn.ensemble.HistGradientBoostingClassifier, _CLASSIFY)
HIST_GRADIENT_BOOSTING_REGRESSOR = EstimatorBuilder(sklearn.ensemble.HistGradientBoostingRegressor, _REGRESS)
