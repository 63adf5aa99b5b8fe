"""Features: the columns a model predicts from, and their conversion to tensors. The same in training and in use.

A model has at most two inputs, whatever the number of columns:

    numbers    FLOAT (rows, width)    numbers, booleans as 0 and 1, dates as days since 1970; NaN if missing
    texts      STRING (rows, width)   strings; empty if missing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.pipeline.definition import ALL_FEATURES, nearest

__all__ = ["NUMBERS", "TEXTS", "Feature", "Features"]

NUMBERS, TEXTS = "numbers", "texts"
_DAY_US = 86_400_000_000
_EXACT = 1 << 24  # FLOAT represents integers up to here exactly
_KINDS = ("number", "date", "text")


@dataclass(frozen=True)
class Feature:
    """One column.   kind: number, date or text.   width: values per row, more than 1 for array columns."""

    name: str
    kind: str
    width: int = 1

    @classmethod
    def of(cls, name: str, values: NDArray[Any]) -> Feature:
        """The feature of a column. Raises: Invalid: a model cannot learn from such values."""
        width = int(np.prod(values.shape[1:]))
        if values.dtype.kind in "OUT" and values.ndim == 1:
            return cls(name, "text")
        if values.dtype.kind == "M" and values.ndim == 1:
            return cls(name, "date")
        if values.dtype.kind in "biuf":
            return cls(name, "number", width)
        raise Invalid(f"column {name} of type {values.dtype} cannot be a feature")

    @property
    def labels(self) -> list[str]:
        """A name for each value of a row."""
        return [self.name] if self.width == 1 else [f"{self.name}[{place}]" for place in range(self.width)]

    def numbers(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The column as FLOAT (rows, width). Raises: Invalid: another kind, or infinite."""
        array = np.asarray(values)
        if self.kind == "date":
            if array.dtype.kind != "M":
                raise Invalid(f"column {self.name} holds {array.dtype.name}; the model learned from dates")
            days = array.astype("datetime64[us]").astype(np.int64) / _DAY_US
            found = np.where(np.isnat(array), np.nan, days)
        else:
            if array.dtype.kind not in "biuf":
                raise Invalid(f"column {self.name} holds {array.dtype.name}; the model learned from numbers")
            found = array.astype(np.float64)
        with np.errstate(over="ignore"):
            narrow = found.reshape(len(array), -1).astype(np.float32)
        if np.isinf(narrow).any():
            row = int(np.flatnonzero(np.isinf(narrow).any(axis=1))[0]) + 1
            raise Invalid(f"column {self.name} is infinite, or beyond what FLOAT holds, in row {row}")
        if narrow.shape[1] != self.width:
            raise Invalid(f"column {self.name} has {narrow.shape[1]} values a row; the model learned from {self.width}")
        return narrow

    def texts(self, values: NDArray[Any]) -> NDArray[Any]:
        """The column as an object array of str, (rows,). Raises: Invalid: another kind."""
        if np.asarray(values).dtype.kind not in "OUT":
            raise Invalid(f"column {self.name} holds {np.asarray(values).dtype.name}; the model learned from strings")
        found = np.empty(len(values), object)
        found[:] = ["" if value is None else str(value) for value in values.tolist()]
        return found


@dataclass(frozen=True)
class Features:
    """All features of a model, in order."""

    items: tuple[Feature, ...]

    @classmethod
    def choose(cls, columns: Columns, wanted: Sequence[str], left_out: Iterable[str]) -> Features:
        """Select the features of a definition.

        Args:   wanted: names; `*` is every column that is not in left_out.
        Raises: Invalid: no such column, or no column left.
        """
        outside = set(left_out)
        names: list[str] = []
        for word in wanted:
            if word == ALL_FEATURES:
                names += [name for name in columns if name not in outside and name not in names]
            elif word not in columns:
                raise Invalid(f"there is no column {word} to predict from; {nearest(word, columns)}")
            elif word not in names:
                names.append(word)
        if not names:
            raise Invalid("no column is left to predict from")
        return cls(tuple(Feature.of(name, columns[name]) for name in names))

    @property
    def numeric(self) -> tuple[Feature, ...]:
        """The features of the tensor `numbers`, in its order."""
        return tuple(item for item in self.items if item.kind != "text")

    @property
    def textual(self) -> tuple[Feature, ...]:
        """The features of the tensor `texts`, in its order."""
        return tuple(item for item in self.items if item.kind == "text")

    def tensors(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The model's inputs for some rows.

        Args:    columns: arrays or lists of equal length, by name; extra columns are ignored.
        Returns: `numbers` FLOAT (rows, width) and `texts` STRING (rows, width), as far as the model has them.
        Raises:  Invalid: a column is missing, or of another kind.
        """
        given: dict[str, NDArray[Any]] = {}
        for item in self.items:
            if item.name not in columns:
                raise Invalid(f"column {item.name} is missing; the model learned from it")
            values = columns[item.name]
            listed = not isinstance(values, np.ndarray)
            given[item.name] = np.array(values, object) if listed and item.kind == "text" else np.asarray(values)
        rows = row_count(given)
        found: dict[str, NDArray[Any]] = {}
        if self.numeric:
            found[NUMBERS] = np.hstack([item.numbers(given[item.name]) for item in self.numeric])
        if self.textual:
            found[TEXTS] = np.empty((rows, len(self.textual)), object)
            for place, item in enumerate(self.textual):
                found[TEXTS][:, place] = item.texts(given[item.name])
        return found

    def notes(self, columns: Columns) -> list[str]:
        """Remarks on these columns for the report."""
        found = []
        for item in self.items:
            values = columns[item.name]
            if values.dtype.kind in "iu" and len(values) and int(np.abs(values.astype(np.float64)).max()) > _EXACT:
                found.append(f"{item.name} has integers above 16 777 216, which FLOAT rounds; is it an identifier?")
        return found

    def as_json(self) -> list[dict[str, Any]]:
        """The content of an artifact's `schema.json`."""
        return [{"name": item.name, "kind": item.kind, "width": item.width} for item in self.items]

    @classmethod
    def from_json(cls, value: Any) -> Features:
        """Parse `schema.json`. Raises: Invalid."""
        try:
            items = tuple(Feature(str(item["name"]), str(item["kind"]), int(item["width"])) for item in value)
        except (TypeError, KeyError, ValueError):
            raise Invalid("this is not a list of features") from None
        if not items or any(item.kind not in _KINDS or item.width < 1 for item in items):
            raise Invalid("this is not a list of features")
        return cls(items)
