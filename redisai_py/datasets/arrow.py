"""Columns from and to Arrow. Needs pyarrow, from the extra `data`.

Conversion of Arrow types:

    bool, int, float                unchanged
    decimal                         float64
    date, timestamp                 datetime, in UTC; a time without a zone counts as UTC; nanoseconds are cut off
    string, dictionary, time        string
    list of numbers, tensor         a shape, if every row has the same number of elements
    null                            float64, every row missing
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.layout import DATETIME, NAN_HINT, NUMBERS, STRING, Columns, NanPolicy

__all__ = ["arrow_type", "cast", "columns_of", "table_of"]

_EXACT = 1 << 53  # float64 represents integers up to here exactly
_TYPES: dict[str, pa.DataType] = {
    **{name: pa.from_numpy_dtype(np.dtype(name)) for name in NUMBERS},
    STRING: pa.string(),
    DATETIME: pa.timestamp("us"),
}


def arrow_type(what: str, name: str) -> pa.DataType:
    """The Arrow type of a column type. what: the column's name in errors. Raises: Invalid: unknown type."""
    if name not in _TYPES:
        raise Invalid(f"{what}: unknown type {name}; use one of {', '.join(_TYPES)}")
    return _TYPES[name]


def cast(what: str, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The column, converted to another type. Raises: Invalid: a value does not fit."""
    wanted = arrow_type(what, name)
    try:
        return column.cast(wanted)
    except pa.ArrowInvalid as error:
        raise Invalid(f"{what} cannot be {name}: {' '.join(str(error).split())}") from None
    except pa.ArrowNotImplementedError:
        raise Invalid(f"{what} is {column.type}, which cannot be made {name}") from None


def columns_of(what: str, table: pa.Table, nan: NanPolicy) -> dict[str, NDArray[Any]]:
    """The columns of a table.

    Args:   what: name of the table in errors.
            nan: how to treat rows that lack a number or a time: raise (`refuse`), leave them out (`drop`), or store
            NaN and NaT (`keep`), which turns integers into float64. A string may always be missing; it is None then.
    Raises: Invalid: unsupported column type, or missing values; names column and row.
    """
    columns = {name: _plain(f"{what}: column {name}", table.column(name)) for name in table.column_names}
    if nan == "refuse":
        for name, column in columns.items():
            lacking = _lacking(column)
            if lacking is not None and pc.any(lacking).as_py():
                row = pc.index(lacking, True).as_py() + 1
                raise Invalid(f"{what}: column {name} lacks a value in row {row} of {len(column)}; {NAN_HINT}")
    elif nan == "drop":
        kept = np.ones(table.num_rows, np.bool_)
        for column in columns.values():
            if (lacking := _lacking(column)) is not None:
                kept &= ~lacking.to_numpy()
        if not kept.any():
            raise Invalid(f"{what}: every row lacks a value in some column")
        columns = {name: column.filter(pa.array(kept)) for name, column in columns.items()}
    return {name: _array(f"{what}: column {name}", column) for name, column in columns.items()}


def _plain(what: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as a bool, number, string, timestamp in microseconds, or list of these."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        return column.cast(pa.timestamp("us", zone), safe=False)
    if pa.types.is_time(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if isinstance(kind, pa.FixedShapeTensorType) or _is_list(kind):
        return column
    plain = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string)
    if not any(is_one(kind) for is_one in plain):
        raise Invalid(f"{what} has the type {kind}, which data sets do not support")
    return column


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _lacking(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """True where a number or a time is missing; None for strings."""
    if pa.types.is_string(column.type):
        return None
    return column.is_null(nan_is_null=pa.types.is_floating(column.type))


def _array(what: str, column: pa.ChunkedArray) -> NDArray[Any]:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType) or _is_list(kind):
        return _nested(what, column)
    if pa.types.is_string(kind):
        texts = np.empty(len(column), object)
        texts[:] = column.to_pylist()
        return texts
    if pa.types.is_timestamp(kind):
        return np.asarray(column.to_numpy(), "datetime64[us]")
    if column.null_count and not pa.types.is_floating(kind):
        if pa.types.is_integer(kind) and max(abs(value or 0) for value in pc.min_max(column).as_py().values()) > _EXACT:
            raise Invalid(f"{what} lacks values, and its integers are too large to be kept as float64 with NaN")
        column = column.cast(pa.uint8()).cast(pa.float64()) if pa.types.is_boolean(kind) else column.cast(pa.float64())
    return np.asarray(column.to_numpy())


def _nested(what: str, column: pa.ChunkedArray) -> NDArray[Any]:
    """Equal-length lists as an array, (rows, length, ...)."""
    values = column.combine_chunks()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    shape: list[int] = []
    if isinstance(values.type, pa.FixedShapeTensorType):
        return np.asarray(values.to_numpy_ndarray())
    rows = count = len(values)
    while _is_list(values.type):
        if values.null_count:
            raise Invalid(f"{what} lacks a list in some row")
        lengths = pc.list_value_length(values)
        least, most = pc.min_max(lengths).as_py().values()
        if not count or least != most or not least:
            raise Invalid(f"{what} has lists of {least} to {most} elements; each row needs the same number, at least 1")
        shape.append(least)
        values = values.flatten()
        count = len(values)
    numbers = pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    if values.null_count or not numbers:
        raise Invalid(f"{what} has lists of {values.type}{' that lack values' if values.null_count else ''}")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(rows, *shape)


def table_of(columns: Columns) -> pa.Table:
    """An Arrow table; values of several elements become lists of fixed length."""
    return pa.table({name: _arrow(values) for name, values in columns.items()})


def _arrow(values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind in "OUT":
        return pa.array(values.tolist(), pa.string())
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    for length in reversed(values.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, length)
    return flat
