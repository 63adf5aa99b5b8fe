"""Output of commands: tables for people, one JSON document for programs, tensors for both."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["Output", "printable", "size_text", "tensor_fields", "tensor_text", "values_of"]

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_WIDE = 4096  # columns without a terminal, so that each table row stays one line
_BETWEEN = "  "


class Output:
    """Prints a command's result on stdout.   as_json: for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def document(self, value: Any) -> None:
        """Print a JSON document, for programs only."""
        try:
            text = json.dumps(value, allow_nan=False, default=_plain)
        except ValueError:  # NaN and the like, as whoever wrote the value into Redis put it
            text = json.dumps(_finite(value), default=_plain)
        typer.echo(text)

    def line(self, text: str, **fields: Any) -> None:
        """Print a line for people, or the fields for programs."""
        if self.as_json:
            self.document(fields)
        else:
            typer.echo(printable(text))

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], nothing: str) -> None:
        """Print rows: all fields for programs; for people the given columns, which are names of fields."""
        if self.as_json:
            self.document(rows)
        elif not rows:
            typer.echo(nothing, err=True)
        else:
            _print_table(columns, [[_cell(row.get(column)) for column in columns] for row in rows], header=True)

    def fields(self, values: Mapping[str, Any]) -> None:
        """Print the fields of one object."""
        if self.as_json:
            self.document(values)
        else:
            _print_table(("", ""), [[printable(name), _cell(value)] for name, value in values.items()], header=False)

    def tensor(self, name: str, array: NDArray[Any]) -> None:
        """Print a tensor for people: type, shape and elements, abbreviated if there are many."""
        import numpy as np

        fields = tensor_fields(array)
        typer.echo(printable(f"{name}  " if name else "") + f"{fields['dtype']} {fields['shape']}")
        typer.echo(np.array2string(array, separator=", ", threshold=200))


def tensor_fields(array: NDArray[Any]) -> dict[str, Any]:
    """Type, in RedisAI's name, and shape."""
    from redisai_py.tensor import DType

    dtype = DType.from_numpy(array.dtype)
    return {"dtype": dtype.name if dtype else str(array.dtype), "shape": list(array.shape)}


def values_of(array: NDArray[Any]) -> Any:
    """Elements as nested lists for JSON; `nan`, `inf` and `-inf` are strings."""
    if array.dtype.kind not in "iubU":
        array = array.astype(float)
    return _finite(array.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def tensor_text(name: Any, dtype: Any, shape: Any) -> str:
    """An input or output of a model, for example `x FLOAT [?, 3]`; unknown parts are left out."""
    dims = None if shape is None else "[" + ", ".join("?" if dim < 0 else str(dim) for dim in shape) + "]"
    return " ".join(_plain(part) for part in (name, dtype, dims) if part)


def printable(text: str) -> str:
    """The text with terminal control characters escaped, because keys and tags may contain anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "no" if value is False else ""
    if value is True:
        return "yes"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(name))}: {_cell(item)}" for name, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return ", ".join(_cell(item) or "-" for item in value)
    return printable(_plain(value))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], header: bool) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    if not sys.stdout.isatty():
        console.width = _WIDE
    lines = [columns, *rows] if header else rows
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    if sum(widths) + len(_BETWEEN) * (len(columns) - 1) > console.width:
        _print_folded(console, columns, rows, header)
        return
    # Nothing is too wide, and padding takes a hundredth of the time of a rich table.
    texts = [_BETWEEN.join(_padded(line, widths)).rstrip() for line in lines]
    with console.capture() as printed:
        if header:
            console.print(Text(texts.pop(0), "bold", no_wrap=True))
    typer.echo(printed.get() + "\n".join(texts))


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    from rich.cells import cell_len

    return [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]


def _print_folded(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], header: bool) -> None:
    """Print a table with cells of several lines, where the terminal is too narrow."""
    from rich.table import Table

    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, len(_BETWEEN), 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    with console.capture() as printed:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def size_text(count: int) -> str:
    """A size in human-readable form."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"
