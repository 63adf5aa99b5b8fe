"""Builders of XGBoost, exported by onnxmltools. One thread: another order of sums would give another model."""

from __future__ import annotations

from typing import Any

import xgboost

from redisai_py.pipeline.builders.scikit import EstimatorBuilder

__all__ = ["CLASSIFIER", "REGRESSOR"]

_FIXED = {"tree_method": "hist", "device": "cpu"}


def _convert(model: Any, width: int) -> bytes:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    found = convert_xgboost(model, "model", [("matrix", FloatTensorType([None, width]))], target_opset=15)
    return bytes(found.SerializeToString())


CLASSIFIER = EstimatorBuilder(xgboost.XGBClassifier, "classification", False, _FIXED, _convert)
REGRESSOR = EstimatorBuilder(xgboost.XGBRegressor, "regression", False, _FIXED, _convert)
