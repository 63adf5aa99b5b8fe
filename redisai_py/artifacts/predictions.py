"""A model's predictions on its test set: inputs and outputs, in a Parquet file that any tool can read.

One row per example; columns `input:NAME` and `output:NAME`. A tensor of more than one dimension is a list per row.
Needs the extra `data`.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Invalid, needing

__all__ = ["Predictions"]

_NOTE = b"io.redisai.predictions"
_MAX_ROWS = 10_000_000


def _pyarrow() -> Any:
    with needing("predictions need pyarrow", "data"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


@dataclass(frozen=True)
class Predictions:
    """inputs, outputs: arrays by name, in the model's order, each (examples, ...)."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        arrays = {**self.inputs, **self.outputs}
        if not self.inputs or not self.outputs or any(array.ndim == 0 for array in arrays.values()):
            raise Invalid("predictions need inputs and outputs, with the examples as their first dimension")
        rows = {len(array) for array in arrays.values()}
        if len(rows) != 1 or 0 in rows:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise Invalid(f"predictions need the same number of examples everywhere, at least one: {shapes}")

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))

    def to_parquet(self) -> bytes:
        """Encode as Parquet. Raises: Invalid: pyarrow is not installed, or cannot store such elements."""
        pyarrow = _pyarrow()
        columns, notes = {}, {}
        for kind, arrays in (("input", self.inputs), ("output", self.outputs)):
            for name, array in arrays.items():
                columns[f"{kind}:{name}"], notes[f"{kind}:{name}"] = _column(pyarrow, name, array)
        table = pyarrow.table(columns).replace_schema_metadata({_NOTE: json.dumps(notes)})
        packed = io.BytesIO()
        pyarrow.parquet.write_table(table, packed, compression="zstd")
        return packed.getvalue()

    @classmethod
    def from_parquet(cls, data: Buffer) -> Predictions:
        """Parse the output of `to_parquet`. Raises: Invalid: something else."""
        pyarrow = _pyarrow()
        try:
            file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
            notes = json.loads((file.schema_arrow.metadata or {})[_NOTE])
            if file.metadata.num_rows > _MAX_ROWS:
                raise Invalid(f"{file.metadata.num_rows} rows of predictions are too many")
            table = file.read()
            arrays: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "output": {}}
            for column, note in notes.items():
                kind, _, name = column.partition(":")
                arrays[kind][name] = _array(table.column(column), note)
        except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise Invalid(f"not predictions with inputs and outputs: {error}") from None
        return cls(arrays["input"], arrays["output"])


def _column(pyarrow: Any, name: str, array: NDArray[Any]) -> tuple[Any, dict[str, Any]]:
    text = array.dtype.kind in "UO"
    note = {"dtype": "str" if text else array.dtype.name, "shape": list(array.shape[1:])}
    try:
        flat = pyarrow.array(np.ascontiguousarray(array).reshape(-1), type=pyarrow.string() if text else None)
    except (pyarrow.ArrowException, TypeError) as error:
        raise Invalid(f"predictions {name} of type {array.dtype} cannot be kept: {error}") from None
    if array.ndim == 1:
        return flat, note
    return pyarrow.FixedSizeListArray.from_arrays(flat, math.prod(array.shape[1:])), note


def _array(column: Any, note: dict[str, Any]) -> NDArray[Any]:
    chunk = column.combine_chunks()
    shape = [int(length) for length in note["shape"]]
    flat = chunk.flatten() if shape else chunk
    dtype = str if note["dtype"] == "str" else np.dtype(note["dtype"])
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=dtype).reshape(len(chunk), *shape)
