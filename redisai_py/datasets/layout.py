"""The layout of a data set: a schema of named columns, and shards that hold their rows. Pure.

A shard is one safetensors file. Each column is a tensor whose first dimension is the rows of the shard. Two types do
not exist in safetensors and are stored as types that every reader knows:

    string     U8 (rows, width): UTF-8, padded with zeros; a missing one begins with byte 0xFF, which UTF-8 never uses
    datetime   I64 (rows,): microseconds since 1970, UTC; a missing one is the smallest number

A shard is untrusted: it is checked against the schema before its rows are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Invalid, reading
from redisai_py.artifacts.tensor_files import tensors_in

__all__ = [
    "DATETIME",
    "NAN_HINT",
    "NUMBERS",
    "SHARD_TYPE",
    "STRING",
    "Column",
    "Columns",
    "NanPolicy",
    "Schema",
    "complete",
    "decode_shard",
    "encode_shard",
    "row_count",
]

SHARD_TYPE = "application/vnd.cncf.model.dataset.v1.raw"
"""Media type of a shard, without `+zstd`. Source: modelpack/model-spec docs/spec.md."""

Columns = Mapping[str, NDArray[Any]]
"""Arrays with the same first dimension. Strings are object arrays of str and None, times are datetime64."""

NanPolicy = Literal["refuse", "drop", "keep"]
"""How to treat rows that lack a number or a time: an error, leave them out, or store NaN and NaT."""
NAN_HINT = "such rows can be left out (nan=drop) or kept (nan=keep)"

STRING = "string"
DATETIME = "datetime"
_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
_STORED: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in _DTYPES.values()}
NUMBERS = tuple(_STORED)
"""Column types other than strings and times, by their numpy names."""
_NO_TEXT = 0xFF
_MAX_DIMENSIONS = 8
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Column:
    """One column.

    type: a numpy name such as float32, or `string`, or `datetime`.   shape: of one row's value.
    nan: whether NaN and NaT may be stored; a string may always be missing.
    """

    name: str
    type: str
    shape: tuple[int, ...] = ()
    nan: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _LONGEST_NAME or not self.name.isprintable():
            raise Invalid(f"{str(self.name)[:50]!r} is not a name of a column")
        if self.type not in _STORED and self.type not in (STRING, DATETIME):
            raise Invalid(f"column {self.name}: unknown type {str(self.type)[:50]}; use one of {', '.join(TYPES)}")
        fits = all(type(length) is int and 0 < length < 2**31 for length in self.shape)
        if not fits or len(self.shape) > _MAX_DIMENSIONS or (self.shape and self.type in (STRING, DATETIME)):
            raise Invalid(f"column {self.name} of type {self.type} cannot have values of the shape {self.shape}")

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype in the shard."""
        if self.type == STRING:
            return np.dtype(np.uint8)
        return np.dtype(np.int64) if self.type == DATETIME else _STORED[self.type]

    @classmethod
    def of(cls, name: str, values: NDArray[Any], nan: bool = False) -> Column:
        """The column for an array. Raises: Invalid: unsupported dtype."""
        if values.ndim == 0:
            raise Invalid(f"column {name} is one value, not one per row")
        if values.dtype.kind in "OUT":
            return cls(name, STRING, values.shape[1:])
        if values.dtype.kind == "M":
            return cls(name, DATETIME, values.shape[1:], nan)
        return cls(name, values.dtype.name, values.shape[1:], nan and values.dtype.kind == "f")

    def encode(self, values: Any) -> NDArray[Any]:
        """The array in its stored form. Raises: Invalid: the values do not fit the column; names it."""
        array = np.asarray(values)
        if array.ndim == 0 or array.shape[1:] != self.shape:
            raise Invalid(f"column {self.name} has values of the shape {self.shape}, not {array.shape[1:]}")
        if self.type == STRING:
            return _encode_texts(self.name, array)
        if self.type == DATETIME:
            if array.dtype.kind != "M":
                raise Invalid(f"column {self.name} holds times, not {array.dtype.name}")
            self._check_present(array)
            return np.ascontiguousarray(array.astype("datetime64[us]").view(np.int64))
        if array.dtype != self.stored:
            # Allow only lossless casts: it is cheaper to find a wrong dtype here than in training.
            if not np.can_cast(array.dtype, self.stored, "safe"):
                raise Invalid(f"column {self.name} is {self.type}, not {array.dtype.name}")
            array = array.astype(self.stored)
        self._check_present(array)
        return np.ascontiguousarray(array)

    def _check_present(self, array: NDArray[Any]) -> None:
        if not self.nan and (absent := _absent(array)) is not None and absent.any():
            row = int(np.argmax(absent))
            raise Invalid(f"column {self.name} lacks a value in row {row + 1} of {len(array)}; {NAN_HINT}")

    def decode(self, array: NDArray[Any]) -> NDArray[Any]:
        """The values of a stored array. Raises: Invalid."""
        tail = array.shape[1:]
        fits = len(tail) == 1 and tail[0] > 0 if self.type == STRING else tail == self.shape
        if array.dtype != self.stored or not fits:
            raise Invalid(f"column {self.name} is {array.dtype.name}{list(tail)}, not {self.type}{list(self.shape)}")
        if self.type == STRING:
            return _decode_texts(self.name, array)
        return array.view("datetime64[us]") if self.type == DATETIME else array


TYPES = (*_STORED, STRING, DATETIME)


def _absent(array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """True for rows with NaN or NaT, None for a type that has neither."""
    if array.dtype.kind not in "fM":
        return None
    found: NDArray[np.bool_] = np.isnat(array) if array.dtype.kind == "M" else np.isnan(array)
    if found.ndim > 1:
        found = np.logical_or.reduce(found, axis=tuple(range(1, found.ndim)))
    return found


def complete(columns: Columns) -> dict[str, NDArray[Any]]:
    """The rows that have a value in every number and time column."""
    lacking = [absent for values in columns.values() if (absent := _absent(np.asarray(values))) is not None]
    kept = ~np.logical_or.reduce(lacking) if lacking else None
    return {name: values if kept is None or kept.all() else values[kept] for name, values in columns.items()}


def _encode_texts(name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    raw: list[bytes] = []
    for value in values.tolist():
        if value is None or value != value:  # tables write NaN for a missing string
            raw.append(bytes([_NO_TEXT]))
        elif isinstance(value, str) and "\0" not in value:
            raw.append(value.encode("utf-8", "surrogatepass"))
        else:
            raise Invalid(f"column {name} holds strings without NUL, not {str(value)[:50]!r}")
    width = max(map(len, raw), default=0) or 1
    return np.array(raw, f"S{width}").view(np.uint8).reshape(len(raw), width)


def _decode_texts(name: str, array: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(len(array), object)
    raw = np.ascontiguousarray(array).view(f"S{array.shape[1]}").ravel().tolist()
    try:
        texts[:] = [None if text[:1] == b"\xff" else text.decode("utf-8", "surrogatepass") for text in raw]
    except UnicodeDecodeError:
        raise Invalid(f"column {name} holds bytes that are no UTF-8") from None
    return texts


@dataclass(frozen=True)
class Schema:
    """The columns of a data set, in order."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise Invalid("a data set needs at least one column")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise Invalid(f"two columns have the name {twice[0]}")

    @property
    def names(self) -> list[str]:
        """Column names."""
        return [column.name for column in self.columns]

    @classmethod
    def of(cls, columns: Columns, nan: bool = False) -> Schema:
        """The schema of some arrays.   nan: whether its columns may hold NaN and NaT. Raises: Invalid."""
        return cls(tuple(Column.of(name, np.asarray(values), nan) for name, values in columns.items()))

    def as_json(self) -> list[dict[str, Any]]:
        """The schema in a config, as JSON values."""
        return [
            {
                "name": column.name,
                "type": column.type,
                **({"shape": list(column.shape)} if column.shape else {}),
                **({"nan": True} if column.nan else {}),
            }
            for column in self.columns
        ]

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """Parse a schema. Raises: Invalid."""
        if not isinstance(value, list) or not all(isinstance(column, dict) for column in value):
            raise Invalid("this is not a schema of a data set")
        return cls(tuple(_column(column) for column in value))

    def check(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The columns in stored form, in the schema's order. Raises: Invalid, before anything is written."""
        names = self.names
        missing = [name for name in names if name not in columns]
        unknown = sorted(set(columns) - set(names))
        if missing or unknown:
            wrong = f"is missing {missing[0]}" if missing else f"has {unknown[0]}, which is not in it"
            raise Invalid(f"the data set has the columns {_some(names)}; this {wrong}")
        encoded = {column.name: column.encode(columns[column.name]) for column in self.columns}
        row_count(encoded)
        return encoded


def _column(value: Mapping[str, Any]) -> Column:
    shape = value.get("shape", [])
    if not isinstance(shape, list) or not isinstance(value.get("type"), str):
        raise Invalid("this is not a schema of a data set")
    return Column(value.get("name", ""), value["type"], tuple(shape), value.get("nan") is True)


def _some(names: Sequence[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)})" if len(names) > limit else "")


def row_count(columns: Columns) -> int:
    """Number of rows of all columns. Raises: Invalid: they differ."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = _some([f"{name} {length}" for name, length in lengths.items()])
        raise Invalid(f"columns have different numbers of rows: {told}")
    return next(iter(lengths.values()), 0)


def encode_shard(stored: Columns) -> bytes:
    """The shard file of columns in stored form; equal columns give equal bytes."""
    return save({name: np.ascontiguousarray(values) for name, values in stored.items()})


def _arrays(what: str, file: Buffer) -> dict[str, NDArray[Any]]:
    """The tensors of a shard, as views. Raises: Invalid."""
    try:
        found = tensors_in("it", file)
    except Invalid as error:
        raise Invalid(f"{what} is not a shard: {error}") from None
    unknown = next((tensor.dtype for tensor in found.values() if tensor.dtype not in _DTYPES), None)
    if unknown is not None:
        raise Invalid(f"{what} is not a shard: it holds elements of the type {unknown}")
    return {name: np.frombuffer(t.data, _DTYPES[t.dtype]).reshape(t.shape) for name, t in found.items()}


@reading()
def decode_shard(what: str, data: Buffer, schema: Schema, rows: int, columns: Sequence[str] | None = None) -> Columns:
    """The columns of a shard, as views of its bytes if the type allows that.

    Args:   what: name of the shard in errors.   rows: expected number.   columns: decode only these.
    Raises: Malformed: not a safetensors file, or not of this schema.
    """
    stored = _arrays(what, data)
    found: dict[str, NDArray[Any]] = {}
    for column in schema.columns:
        if columns is not None and column.name not in columns:
            continue
        array = stored.get(column.name)
        if array is None or array.ndim == 0 or len(array) != rows:
            raise Invalid(f"{what} does not hold {rows} rows of the column {column.name}")
        try:
            found[column.name] = column.decode(array)
        except Invalid as error:
            raise Invalid(f"{what}: {error}") from None
    return found
