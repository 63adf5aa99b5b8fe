"""Splitting rows into training and test rows. Pure: column values in, one value per row out.

- by share: rows are permuted, and the first ones become test rows.
- stratified: the same within each value of a column, so that both sides have rare classes.
- by time: no shuffling; the latest rows become test rows; rows with the same time stay together.
- by group: all rows of a group stay together, so that no test patient or customer is known from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.datasets.order import permutation

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """How to split.   test: share of the test rows, between 0 and 1.   stratify, by, group: column names.

    by: a column that can be ordered. At most one of the three may be given.
    Raises: Invalid, naming the parameter.
    """

    test: float = 0.2
    stratify: str | None = None
    by: str | None = None
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise Invalid(f"test is {self.test}; it must be a share between 0 and 1, such as 0.2")
        given = [name for name in ("stratify", "by", "group") if getattr(self, name) is not None]
        if len(given) > 1:
            raise Invalid(f"{' and '.join(given)} cannot be combined; use one of them")

    def test_rows(self, columns: Columns) -> NDArray[np.bool_]:
        """True for each test row, (rows,).

        Args:   columns: at least the column named here.
        Raises: Invalid: no training or no test rows, a class with a single row, or missing times.
        """
        rows = row_count(columns)
        if self.by is not None:
            chosen = self._latest(self._column(columns, self.by))
        elif self.group is not None:
            chosen = self._groups(self._column(columns, self.group))
        elif self.stratify is not None:
            chosen = self._stratified(self._column(columns, self.stratify))
        else:
            chosen = np.zeros(rows, np.bool_)
            chosen[permutation(rows, "split", self.seed)[: _share(rows, self.test)]] = True
        if not chosen.any() or chosen.all():
            side = "training" if chosen.any() else "testing"
            raise Invalid(f"of {rows} rows none would be left for {side}")
        return chosen

    def _column(self, columns: Columns, name: str) -> NDArray[Any]:
        if name not in columns:
            raise Invalid(f"there is no column {name}; columns: {', '.join(columns)}")
        values = np.asarray(columns[name])
        if values.ndim != 1:
            raise Invalid(f"column {name} has several values a row; rows cannot be split by it")
        return values

    def _latest(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        if values.dtype.kind == "O":
            raise Invalid(f"column {self.by} holds strings; to split by time it must hold times or numbers")
        missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
        if missing.any():
            raise Invalid(f"column {self.by} lacks a value in some rows, which have no place in time then")
        ordered = np.sort(values)
        latest: NDArray[np.bool_] = values >= ordered[len(values) - _share(len(values), self.test)]
        return latest

    def _groups(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        codes, counts = _codes(values)
        wanted = _share(len(values), self.test)
        chosen = np.zeros(len(counts), np.bool_)
        taken = 0
        for group in permutation(len(counts), "groups", self.seed):
            if taken >= wanted:
                break
            chosen[group] = True
            taken += int(counts[group])
        return chosen[codes]

    def _stratified(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        codes, counts = _codes(values)
        if counts.min(initial=2) < 2:
            alone = values[codes == int(np.argmin(counts))][0]
            raise Invalid(
                f"column {self.stratify} has {str(alone)[:50]!r} in one row only, which cannot be on both sides"
            )
        room = min(_share(len(values), self.test), _share(len(values), 1 - self.test))
        if len(counts) > room:
            raise Invalid(
                f"column {self.stratify} has {len(counts)} different values, and one side has {room} rows: "
                "not every value can be on both sides"
            )
        chosen = np.zeros(len(values), np.bool_)
        for code, count in enumerate(counts):
            rows = np.flatnonzero(codes == code)
            mixed = permutation(int(count), "stratum", self.seed, code)
            chosen[rows[mixed[: min(_share(int(count), self.test), int(count) - 1)]]] = True
        return chosen


def _share(rows: int, share: float) -> int:
    """Number of rows of a share, at least one."""
    return max(1, round(rows * share)) if rows else 0


def _codes(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number per distinct value, in the order of their texts, and the row count of each. None is a value, too."""
    if values.dtype.kind == "O":
        values = np.array(["\0" if value is None else str(value) for value in values.tolist()])
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return codes, counts
