"""Builders: each makes a model of one algorithm. Third parties add theirs by an entry point.

    [project.entry-points."redisai_py.builders"]
    "acme.regressor" = "acme.building:REGRESSOR"

A builder sees a matrix of FLOAT without gaps, and exports a graph from that matrix; missing values, scaling, texts and
class labels are dealt with around it.
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
"""Entry-point group; an entry's name is what a definition says, its object a `Builder`."""
TASKS = ("classification", "regression")

Floats = NDArray[np.float32]


class ExportRefused(ArtifactError):
    """A model that was trained cannot be exported; nothing was published."""


class Fitted(Protocol):
    """A trained model.   notes: warnings of the training, for the report."""

    notes: Sequence[str]

    def predict(self, matrix: Floats) -> NDArray[Any]:
        """Probabilities (rows, classes), or values (rows,)."""

    def to_onnx(self) -> bytes:
        """A graph with one input, FLOAT (rows, width), and an output with what `predict` gives.

        Of several outputs that named `probabilities` counts, else the first. The operator set is 13 or later.
        Raises: ExportRefused, or whatever the converter raises.
        """

    def importances(self) -> NDArray[Any] | None:
        """(width,), at least 0; None to have them measured."""


@runtime_checkable
class Builder(Protocol):
    """Makes models.   task: classification or regression.   scaled: whether columns get mean 0 and deviation 1."""

    task: str
    scaled: bool

    def parameters(self) -> Mapping[str, Any]:
        """Those that a definition may set, with their defaults."""

    def fit(self, matrix: Floats, target: NDArray[Any], classes: int, seed: int, params: Mapping[str, Any]) -> Fitted:
        """Train.

        Args: target: int64 (rows,) from 0 to classes - 1, each at least once, or float64 (rows,).   classes: 0 for
              regression.   The same arguments must give the same model.
        """


def builder_names() -> list[str]:
    """Names of the installed builders, sorted; none is imported."""
    return sorted({point.name for point in metadata.entry_points(group=BUILDERS)})


def load_builder(name: str) -> Builder:
    """A builder by its name. Raises: Invalid: there is none, or its framework is not installed."""
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
        raise Invalid(f"{points[0].value}, which is to be the builder {name}, is none")
    return builder


def check_params(name: str, builder: Builder, params: Mapping[str, Any]) -> None:
    """Raises: Invalid: the builder has no such parameter, naming the nearest."""
    known = builder.parameters()
    for word in params:
        if word not in known:
            raise Invalid(f"model.params.{word} is unknown to {name}; {nearest(word, known)}")
