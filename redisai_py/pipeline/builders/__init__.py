"""Builders: each trains one kind of model. Third parties add builders by entry points.

    [project.entry-points."redisai_py.builders"]
    "acme.regressor" = "acme.building:REGRESSOR"

A builder receives a FLOAT matrix without missing values and exports a graph that starts at that matrix. The pipeline
handles missing values, scaling, strings and class labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.errors import ArtifactError, Invalid
from redisai_py.pipeline.definition import nearest

__all__ = ["BUILDERS", "TASKS", "Builder", "ExportRefused", "Fitted", "builder_names", "check_params", "load_builder"]

BUILDERS = "redisai_py.builders"
"""Entry-point group. An entry's name is used in definitions; its object is a `Builder`."""
TASKS = ("classification", "regression")

Floats = NDArray[np.float32]


class ExportRefused(ArtifactError):
    """A trained model cannot be exported; nothing was published."""


class Fitted(Protocol):
    """A trained model.   notes: warnings of the training, for the report."""

    notes: Sequence[str]

    def predict(self, matrix: Floats) -> NDArray[Any]:
        """Probabilities (rows, classes), or values (rows,)."""

    def to_onnx(self) -> bytes:
        """An ONNX graph with one input, FLOAT (rows, width), and an output equal to that of `predict`.

        If it has several outputs, the one named `probabilities` counts, else the first. Operator set 13 or later.
        Raises: ExportRefused, or whatever the converter raises.
        """

    def importances(self) -> NDArray[Any] | None:
        """Importance per column, (width,), not negative; None to have it measured by permutation."""


@runtime_checkable
class Builder(Protocol):
    """Trains models.   task: classification or regression.   scaled: whether columns get mean 0, deviation 1."""

    task: str
    scaled: bool

    def parameters(self) -> Mapping[str, Any]:
        """Parameters that a definition may set, with their defaults."""

    def fit(self, matrix: Floats, target: NDArray[Any], classes: int, seed: int, params: Mapping[str, Any]) -> Fitted:
        """Train on the matrix, FLOAT (rows, width). The same arguments must give the same model.

        Args: target: int64 (rows,) from 0 to classes - 1, each at least once; for regression float64 (rows,).
              classes: 0 for regression.
        """


def builder_names() -> list[str]:
    """Names of the installed builders, sorted; none is imported."""
    return sorted({point.name for point in metadata.entry_points(group=BUILDERS)})


def load_builder(name: str) -> Builder:
    """A builder by name. Raises: Invalid: unknown, or its framework is not installed."""
    points = [point for point in metadata.entry_points(group=BUILDERS) if point.name == name]
    if not points:
        raise Invalid(f"there is no builder {name}; {nearest(name, builder_names())}")
    try:
        builder = points[0].load()
    except ImportError as error:
        raise Invalid(
            f"builder {name} needs what is not installed ({error}): pip install 'redisai_py[pipeline]'"
        ) from None
    if not isinstance(builder, Builder) or builder.task not in TASKS:
        raise Invalid(f"{points[0].value}, the entry point of {name}, is not a builder")
    return builder


def check_params(name: str, builder: Builder, params: Mapping[str, Any]) -> None:
    """Check parameter names. Raises: Invalid: the builder has no such parameter; the text names the nearest."""
    known = builder.parameters()
    for word in params:
        if word not in known:
            raise Invalid(f"model.params.{word} is unknown to {name}; {nearest(word, known)}")
