"""Classifiers of scikit-learn for the digits, exported through skl2onnx.

Each takes `image`, float32 (N, 64), and gives `label`, int64 (N,), and `probabilities`, float32 (N, 10).
"""

from __future__ import annotations

from typing import Any

from skl2onnx import to_onnx as convert
from skl2onnx.common.data_types import FloatTensorType
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from examples.digits.data import PIXELS, Digits

__all__ = ["nearest_neighbours", "random_forest", "regression_pipeline", "to_onnx"]

_OPSET = 17


def regression_pipeline(learn: Digits) -> Pipeline:
    """Standardise, keep 40 principal components, logistic regression."""
    pipeline = make_pipeline(StandardScaler(), PCA(40, random_state=0), LogisticRegression(max_iter=1000))
    return pipeline.fit(learn.images, learn.labels)


def random_forest(learn: Digits) -> RandomForestClassifier:
    """A hundred decision trees."""
    return RandomForestClassifier(100, random_state=0).fit(learn.images, learn.labels)


def nearest_neighbours(learn: Digits) -> KNeighborsClassifier:
    """A vote of the three most similar images."""
    return KNeighborsClassifier(3).fit(learn.images, learn.labels)


def to_onnx(classifier: Any) -> bytes:
    """For backend ONNX. zipmap off: probabilities as a tensor, not as a list of dictionaries."""
    model = convert(
        classifier,
        initial_types=[("image", FloatTensorType([None, PIXELS]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=_OPSET,
    )
    return bytes(model.SerializeToString())
