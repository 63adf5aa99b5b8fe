"""Preparation: from the tensors of `features` to the matrix that a builder learns from, in numpy and in ONNX.

Missing numbers become the median of the training rows. Numbers are scaled if the builder wants that. A string column
becomes one column per known value; an unknown value is zero in all of them. Numpy and ONNX do the same FLOAT operations
in the same order, so the matrices are equal to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.pipeline.features import NUMBERS, TEXTS, Features

__all__ = ["Preparation"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Preparation:
    """The values learned from the training rows.

    median, mean, scale: (width of numbers,).   mean and scale are None if the builder does not want scaling.
    categories: known values of each string feature, sorted.   notes: for the report.
    """

    features: Features
    median: Floats
    mean: Floats | None
    scale: Floats | None
    categories: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, features: Features, tensors: Mapping[str, NDArray[Any]], scaled: bool, max_categories: int
    ) -> Preparation:
        """Learn from training rows. Raises: Invalid: no column is left."""
        notes = []
        numbers = tensors.get(NUMBERS)
        median = mean = scale = np.empty(0, np.float32)
        if numbers is not None:
            empty = np.isnan(numbers).all(axis=0)
            labels = [label for item in features.numeric for label in item.labels]
            notes += [f"{labels[place]} has no value in any training row" for place in np.flatnonzero(empty)]
            median = np.zeros(numbers.shape[1], np.float32)
            median[~empty] = np.nanmedian(numbers[:, ~empty], axis=0).astype(np.float32)
            filled = np.where(np.isnan(numbers), median, numbers)
            mean = filled.mean(axis=0, dtype=np.float64).astype(np.float32)
            scale = filled.std(axis=0, dtype=np.float64).astype(np.float32)
            scale[~(scale > 0)] = 1
        categories = []
        for place, item in enumerate(features.textual):
            counts = Counter(tensors[TEXTS][:, place].tolist())
            common = sorted(counts, key=lambda value: (-counts[value], value))
            categories.append(tuple(sorted(common[:max_categories])))
            if len(common) > max_categories:
                notes.append(
                    f"{item.name} has {len(common)} values, of which the {max_categories} most frequent are told apart"
                )
        found = cls(
            features, median, mean if scaled else None, scale if scaled else None, tuple(categories), tuple(notes)
        )
        if not found.width:
            raise Invalid("no column is left to predict from")
        return found

    @property
    def width(self) -> int:
        """Number of columns of the matrix."""
        return len(self.median) + sum(map(len, self.categories))

    @property
    def sources(self) -> list[str]:
        """The feature that each column of the matrix comes from."""
        numeric = [item.name for item in self.features.numeric for _ in range(item.width)]
        pairs = zip(self.features.textual, self.categories, strict=True)
        return numeric + [item.name for item, known in pairs for _ in known]

    def matrix(self, tensors: Mapping[str, NDArray[Any]]) -> Floats:
        """The matrix, FLOAT (rows, width)."""
        parts: list[Floats] = []
        if NUMBERS in tensors:
            numbers = tensors[NUMBERS]
            numbers = np.where(np.isnan(numbers), self.median, numbers)
            if self.mean is not None and self.scale is not None:
                numbers = (numbers - self.mean) / self.scale
            parts.append(numbers)
        for place, known in enumerate(self.categories):
            codes = {value: code for code, value in enumerate(known)}
            column = np.array([codes.get(value, -1) for value in tensors[TEXTS][:, place].tolist()])
            parts.append((column[:, None] == np.arange(len(known))).astype(np.float32))
        return np.ascontiguousarray(np.hstack(parts), np.float32)

    def nodes(self, output: str) -> tuple[list[Any], list[Any], list[Any]]:
        """The preparation as ONNX.

        Args:    output: name of the matrix.
        Returns: inputs, nodes and initializers; operator sets: ai.onnx 13, ai.onnx.ml 2.
        """
        from onnx import TensorProto, helper

        inputs: list[Any] = []
        nodes: list[Any] = []
        constants: list[Any] = []
        parts: list[str] = []
        if self.features.numeric:
            inputs.append(helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, ["rows", len(self.median)]))
            self._numeric(nodes, constants)
            parts.append("prepared/numbers")
        if self.features.textual:
            inputs.append(helper.make_tensor_value_info(TEXTS, TensorProto.STRING, ["rows", len(self.categories)]))
            for place, known in enumerate(self.categories):
                parts.append(_one_hot(nodes, constants, place, known))
        nodes.append(helper.make_node("Concat", parts, [output], axis=1))
        return inputs, nodes, constants

    def _numeric(self, nodes: list[Any], constants: list[Any]) -> None:
        from onnx import helper, numpy_helper

        constants.append(numpy_helper.from_array(self.median, "median"))
        nodes.append(helper.make_node("IsNaN", [NUMBERS], ["missing"]))
        last = "prepared/numbers" if self.mean is None else "filled"
        nodes.append(helper.make_node("Where", ["missing", "median", NUMBERS], [last]))
        if self.mean is not None and self.scale is not None:
            constants.append(numpy_helper.from_array(self.mean, "mean"))
            constants.append(numpy_helper.from_array(self.scale, "scale"))
            nodes.append(helper.make_node("Sub", ["filled", "mean"], ["centred"]))
            nodes.append(helper.make_node("Div", ["centred", "scale"], ["prepared/numbers"]))

    def as_json(self) -> dict[str, Any]:
        """The replacements of missing values and the known values, for `schema.json`."""
        labels = [label for item in self.features.numeric for label in item.labels]
        return {
            "missing": {label: float(value) for label, value in zip(labels, self.median, strict=True)},
            "categories": {
                item.name: list(known) for item, known in zip(self.features.textual, self.categories, strict=True)
            },
        }


def _one_hot(nodes: list[Any], constants: list[Any], place: int, known: tuple[str, ...]) -> str:
    from onnx import helper, numpy_helper

    name = f"text{place}"
    constants.append(numpy_helper.from_array(np.array([place], np.int64), f"{name}/place"))
    constants.append(numpy_helper.from_array(np.arange(len(known), dtype=np.int64), f"{name}/codes"))
    nodes.append(helper.make_node("Gather", [TEXTS, f"{name}/place"], [f"{name}/column"], axis=1))
    nodes.append(
        helper.make_node(
            "LabelEncoder",
            [f"{name}/column"],
            [f"{name}/code"],
            domain="ai.onnx.ml",
            keys_strings=list(known),
            values_int64s=list(range(len(known))),
            default_int64=-1,
        )
    )
    nodes.append(helper.make_node("Equal", [f"{name}/code", f"{name}/codes"], [f"{name}/is"]))
    nodes.append(helper.make_node("Cast", [f"{name}/is"], [f"prepared/{name}"], to=1))
    return f"prepared/{name}"
