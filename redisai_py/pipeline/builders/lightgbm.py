"""Builders of LightGBM, exported by onnxmltools. One thread, deterministic: the same rows give the same model."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np

from redisai_py.pipeline.builders.scikit import EstimatorBuilder

__all__ = ["CLASSIFIER", "REGRESSOR"]

_FIXED = {"deterministic": True, "force_row_wise": True, "verbose": -1}
_THRESHOLD = "threshold="


def _convert(model: Any, width: int) -> bytes:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster = lightgbm.Booster(model_str=_in_float32(model.booster_.model_to_string()))
    types = [("matrix", FloatTensorType([None, width]))]
    found = convert_lightgbm(booster, "model", types, target_opset=15, zipmap=False)
    return bytes(found.SerializeToString())


def _in_float32(text: str) -> str:
    """The model, with thresholds that FLOAT can represent.

    LightGBM compares in FLOAT64, ONNX in FLOAT, and the converter rounds thresholds to the nearest FLOAT, so a value in
    between would take the other branch. For FLOAT values, `x <= t` equals `x <= the largest FLOAT that is at most t`.
    """
    return "\n".join(
        _THRESHOLD + " ".join(map(_floor, line.removeprefix(_THRESHOLD).split()))
        if line.startswith(_THRESHOLD)
        else line
        for line in text.split("\n")
        if not line.startswith("tree_sizes=")  # sizes in bytes, which no longer hold; the line is optional
    )


def _floor(word: str) -> str:
    value = float(word)
    with np.errstate(over="ignore"):
        near = np.float32(value)
    return repr(float(near if float(near) <= value else np.nextafter(near, np.float32(-np.inf))))


CLASSIFIER = EstimatorBuilder(lightgbm.LGBMClassifier, "classification", False, _FIXED, _convert)
REGRESSOR = EstimatorBuilder(lightgbm.LGBMRegressor, "regression", False, _FIXED, _convert)
