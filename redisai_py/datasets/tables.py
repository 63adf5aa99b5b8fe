"""Tables in files: CSV and Parquet, through pyarrow, and npz. Every content has one meaning, or is an error.

    no bytes, no rows               error
    duplicate or empty column name  error; also the unnamed column that pandas writes for its index
    mixed numbers, times, strings   error that names a row of each; `types` resolves it
    missing number or time          `nan` decides: error, row left out, or NaN
    missing string                  CSV: empty string, because CSV does not distinguish the two; else None
    dates                           ISO 8601, as `datetime`; other date formats are strings
    integers beyond 64 bits         float64

A table is read completely; this takes about twice its size in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid, needing
from redisai_py.client.files import replacing
from redisai_py.datasets.layout import NAN_HINT, STRING, Columns, NanPolicy, complete, row_count

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "read_parquet", "read_table", "table_columns", "table_format", "write_table"]

SUFFIXES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npz": "npz",
}
"""File name suffixes and formats."""

_FLOATS = "*"
_NO_VALUE = ["", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "-", "?"]
_LIKE = {
    "number": r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$",
    "time": r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$",
}


def table_format(path: os.PathLike[str] | str) -> str:
    """The format of a file, by its name: csv, tsv, parquet or npz. Raises: Invalid."""
    name = Path(path).name.lower()
    for suffix, found in SUFFIXES.items():
        if name.endswith(suffix):
            return found
    raise Invalid(f"{path}: cannot tell the format from the name; supported: {', '.join(SUFFIXES)}")


def read_table(
    path: os.PathLike[str] | str,
    *,
    nan: NanPolicy = "refuse",
    types: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """The columns of a file.

    Args:    nan: how to treat rows that lack a number or a time.
             types: column types that override those of the file: {"zip": "string", "label": "int64"}. "*" is every
             floating-point column that is not named.   columns: only these.
    Returns: (rows, ...) per column, in the file's order; strings as object arrays of str and None, times as datetime64.
    Raises:  Invalid, naming file, column and row if there is one: see above.   OSError.
    """
    what, form = str(path), table_format(path)
    if os.stat(path).st_size == 0:
        raise Invalid(f"{what}: the file is empty")
    types = types or {}
    if form == "npz":
        found = _read_npz(what, path, columns)
        _check_named(what, found, types)
        return _cleaned(what, {name: _cast(what, name, values, types) for name, values in found.items()}, nan)
    table = _read_parquet(what, path, columns) if form == "parquet" else _read_csv(what, path, form, types, columns)
    _check_named(what, table.column_names, types)
    return _from_arrow(what, table, types, nan)


def table_columns(path: os.PathLike[str] | str) -> list[str]:
    """Column names of a file; reads as little of it as possible. Raises: see `read_table`."""
    what, form = str(path), table_format(path)
    if form == "npz":
        return _npz(what, path, lambda file: list(file.files))  # type: ignore[no-any-return]
    if form == "parquet":
        return list(_parquet(what, path, lambda file: file.schema_arrow.names))
    with _unpacked(path) as file:
        # Only the header, with CSV's quoting.
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        return next(csv.reader(text, delimiter="\t" if form == "tsv" else ","), [])


def read_parquet(what: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The columns of a Parquet file in memory, with missing values kept. what: its name in errors. Raises: Invalid."""
    table = _read_parquet(what, _arrow_modules().BufferReader(data), None)
    return _from_arrow(what, table, {}, "keep")


def _from_arrow(what: str, table: pa.Table, types: Mapping[str, str], nan: NanPolicy) -> dict[str, NDArray[Any]]:
    import pyarrow as pa

    from redisai_py.datasets.arrow import cast, columns_of

    if not table.num_rows:
        raise Invalid(f"{what}: there are no rows")
    for place, field in enumerate(table.schema):
        wanted = types.get(field.name, types.get(_FLOATS) if pa.types.is_floating(field.type) else None)
        if wanted is not None:
            values = cast(f"{what}: column {field.name}", table.column(place), wanted)
            table = table.set_column(place, field.name, values)
    return columns_of(what, table, nan)


def _check_named(what: str, names: Iterable[str], types: Mapping[str, str]) -> None:
    unknown = set(types) - {_FLOATS, *names}
    if unknown:
        raise Invalid(f"{what}: there is no column {min(unknown)}, which should be {types[min(unknown)]}")


def _check_header(what: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if not name.strip():
            raise Invalid(
                f"{what}: column {list(names).index(name) + 1} has no name; "
                "if it is the index that pandas wrote, write the file with index=False"
            )
        if count > 1:
            raise Invalid(f"{what}: {count} columns have the name {name}")


def _only(what: str, names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    for name in columns or ():
        if name not in names:
            raise Invalid(f"{what}: there is no column {name}; columns: {', '.join(names[:20])}")
    return [name for name in names if columns is None or name in columns]


def _arrow_modules() -> Any:
    with needing("reading CSV and Parquet needs pyarrow", "data"):
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    return pyarrow


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _read_csv(
    what: str, path: os.PathLike[str] | str, form: str, types: Mapping[str, str], columns: Sequence[str] | None
) -> pa.Table:
    pa = _arrow_modules()
    from redisai_py.datasets.arrow import arrow_type

    convert = pa.csv.ConvertOptions(
        null_values=_NO_VALUE,
        strings_can_be_null=False,
        column_types={n: arrow_type(f"{what}: column {n}", t) for n, t in types.items() if n != _FLOATS},
    )
    parse = pa.csv.ParseOptions(delimiter="\t" if form == "tsv" else ",", newlines_in_values=True)
    try:
        with _unpacked(path) as file:
            table = pa.csv.read_csv(file, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Invalid(f"{what}: {_readable(path, ' '.join(str(error).split()))}") from None
    _check_header(what, table.column_names)
    table = table.select(_only(what, table.column_names, columns))
    for name in table.column_names:
        if pa.types.is_string(table.schema.field(name).type) and types.get(name) != STRING:
            _check_texts(what, name, table.column(name))
        if pa.types.is_binary(table.schema.field(name).type):
            raise Invalid(f"{what}: column {name} holds bytes that are not UTF-8")
    return table


def _readable(path: os.PathLike[str] | str, text: str) -> str:
    """Arrow's message, shortened, with the column's name instead of its number."""
    found = re.match(r"In CSV column #(\d+): (?:Row #(\d+): )?(.*)", text)
    if found is None:
        return text[:300]
    names, place = table_columns(path), int(found[1])
    row = f" in row {int(found[2]) - 1}" if found[2] else ""
    why = re.sub(r"^CSV conversion error to (\w+): ", r"this is no \1: ", found[3])
    return f"column {names[place] if place < len(names) else place + 1}{row}: {why[:300]}"


def _unpacked(path: os.PathLike[str] | str) -> Any:
    """The file, decompressed according to its name."""
    return gzip.open(path, "rb") if str(path).lower().endswith(".gz") else open(path, "rb")


def _check_texts(what: str, name: str, column: pa.ChunkedArray) -> None:
    """Refuse a column of numbers that contains a string: a column of strings would be useless in training."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rest = pc.invert(pc.is_in(column, value_set=pa.array(_NO_VALUE)))
    found: dict[str, int] = {}
    for kind, pattern in (*_LIKE.items(), ("text", "")):
        these = pc.and_(rest, pc.match_substring_regex(column, pattern))
        if (row := pc.index(these, True).as_py()) >= 0:
            found[kind] = row
        rest = pc.and_not(rest, these)
    if len(found) > 1 or "time" in found:
        told = ", ".join(f"a {kind} in row {row + 1}, {str(column[row].as_py())[:50]!r}" for kind, row in found.items())
        told += "" if len(found) > 1 else ", and times of other forms"
        raise Invalid(
            f"{what}: column {name} holds several types: {told}; "
            f"correct the file, or say that {name} is of type {STRING}"
        )


# -- Parquet, npz ------------------------------------------------------------------------------------------------------


def _read_parquet(what: str, source: Any, columns: Sequence[str] | None) -> pa.Table:
    def read(file: Any) -> pa.Table:
        names = file.schema_arrow.names
        _check_header(what, names)
        return file.read(_only(what, names, columns))

    return _parquet(what, source, read)


def _parquet(what: str, source: Any, read: Callable[[Any], Any]) -> Any:
    """What `read` finds in a file, given by its path or in Arrow's memory."""
    pa = _arrow_modules()
    try:
        with pa.parquet.ParquetFile(source) as file:
            return read(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # it is not the file's fault
        raise Invalid(f"{what} is not a readable Parquet file: {' '.join(str(error).split())}") from None


def _npz(what: str, path: os.PathLike[str] | str, read: Callable[[Any], Any]) -> Any:
    if not zipfile.is_zipfile(path):
        raise Invalid(f"{what} is not a readable npz file: it is no zip archive")
    try:
        with np.load(path, allow_pickle=False) as file:
            return read(file)
    except Invalid:
        raise
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError, TypeError) as error:
        raise Invalid(f"{what} is not a readable npz file: {' '.join(str(error).split())}") from None


def _read_npz(what: str, path: os.PathLike[str] | str, columns: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    def read(file: Any) -> dict[str, NDArray[Any]]:
        _check_header(what, file.files)
        return {name: file[name] for name in _only(what, file.files, columns)}

    found: dict[str, NDArray[Any]] = _npz(what, path, read)
    for name, values in found.items():
        if values.ndim == 0:
            raise Invalid(f"{what}: {name} is one value, not one per row")
        if values.dtype.kind == "U":
            found[name] = values.astype(object)
    try:
        rows = row_count(found)
    except Invalid as error:
        raise Invalid(f"{what}: {error}") from None
    if not rows:
        raise Invalid(f"{what}: there are no rows")
    return found


def _cast(what: str, name: str, values: NDArray[Any], types: Mapping[str, str]) -> NDArray[Any]:
    wanted = types.get(name, types.get(_FLOATS) if values.dtype.kind == "f" else None)
    if wanted is None:
        return values
    if values.dtype.kind in "O" or wanted not in np.sctypeDict or values.dtype.kind == "M":
        raise Invalid(f"{what}: column {name} is {values.dtype.name}, which cannot be made {wanted}")
    cast = values.astype(wanted)
    if cast.dtype.kind != "f" and not np.array_equal(cast, values):
        raise Invalid(f"{what}: column {name} has values that do not fit {wanted}")
    return cast


def _cleaned(what: str, columns: Columns, nan: NanPolicy) -> dict[str, NDArray[Any]]:
    found = complete(columns)
    if row_count(found) == row_count(columns) or nan == "keep":
        return dict(columns)
    if nan == "refuse":
        for name, values in columns.items():
            if len(complete({name: values})[name]) < len(values):
                raise Invalid(f"{what}: column {name} lacks values; {NAN_HINT}")
    if not row_count(found):
        raise Invalid(f"{what}: every row lacks a value in some column")
    return found


# -- writing -----------------------------------------------------------------------------------------------------------


def write_table(path: os.PathLike[str] | str, parts: Iterable[Columns]) -> int:
    """Write rows to a file, completely or not at all.

    Args:    parts: columns, some rows at a time; CSV and Parquet hold one part in memory, npz all.
    Returns: number of rows.
    Raises:  Invalid: CSV cannot hold values of several elements, npz no missing strings.   OSError.
    """
    form, target = table_format(path), Path(path)
    with replacing(target) as temporary:
        if form == "npz":
            return _write_npz(temporary, parts)
        return _write_arrow(temporary, target.name.lower(), form, parts)


def _write_npz(path: Path, parts: Iterable[Columns]) -> int:
    held = list(parts)
    joined = {name: np.concatenate([part[name] for part in held]) for name in (held[0] if held else ())}
    for name, values in joined.items():
        if values.dtype.kind == "O":
            if any(value is None for value in values.tolist()):
                raise Invalid(f"column {name} lacks a string in some row, which npz cannot store; write Parquet")
            joined[name] = values.astype(np.str_)
    with path.open("wb") as file:
        np.savez_compressed(file, **joined)  # type: ignore[arg-type]  # its stub takes any name for an option
    return row_count(joined)


def _write_arrow(path: Path, name: str, form: str, parts: Iterable[Columns]) -> int:
    pa = _arrow_modules()
    from redisai_py.datasets.arrow import table_of

    rows, writer = 0, None
    with pa.output_stream(str(path), compression="gzip" if name.endswith(".gz") else None) as file:
        for part in parts:
            table = table_of(part)
            if writer is None:
                if form == "parquet":
                    writer = pa.parquet.ParquetWriter(file, table.schema, compression="zstd")
                else:
                    writer = _csv_writer(pa, file, form, table.schema)
            writer.write_table(table)
            rows += table.num_rows
        if writer is not None:
            writer.close()
    return rows


def _csv_writer(pa: Any, file: Any, form: str, schema: pa.Schema) -> Any:
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            raise Invalid(f"column {field.name} has several values a row, which CSV cannot hold; write Parquet or npz")
    return pa.csv.CSVWriter(file, schema, write_options=pa.csv.WriteOptions(delimiter="\t" if form == "tsv" else ","))
