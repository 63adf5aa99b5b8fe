"""Shared by the commands of `redisai dataset`: options, and parsing of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.failures import UsageError
from redisai_py.cli.options import names
from redisai_py.cli.output import Output, size_text

if TYPE_CHECKING:
    from redisai_py.artifacts import Store, Version
    from redisai_py.datasets.layout import NanPolicy
    from redisai_py.datasets.tail import Window

__all__ = [
    "KeepOption",
    "NameArgument",
    "NanOption",
    "SplitOption",
    "TypeOption",
    "bytes_of",
    "nan_policy",
    "print_version",
    "split_files",
    "types_of",
    "window_of",
]

NameArgument = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The data set's name.")]
NanOption = Annotated[
    str, typer.Option("--nan", metavar="WORD", help="Rows with a missing number or time: refuse, drop or keep.")
]
TypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type", metavar="COLUMN=TYPE", help="float32, string ...; * is every floating-point column. Repeatable."
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option("--keep", metavar="ROWS|AGE", help="Keep only the newest rows (1e6), or those of the last 12h or 7d."),
]
SplitOption = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Only this split.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "KIB": 1024, "MIB": 1024**2, "KB": 1000, "MB": 1000**2}


def nan_policy(word: str) -> NanPolicy:
    """The value of --nan. Raises: UsageError."""
    if word not in ("refuse", "drop", "keep"):
        raise UsageError(f"--nan {word}: use refuse, drop or keep")
    return word  # type: ignore[return-value]  # one of the three


def types_of(values: list[str] | None) -> dict[str, str]:
    """The values of --type. Raises: UsageError."""
    found = {}
    for value in names(values):
        column, equals, kind = value.rpartition("=")
        if not equals or not column or not kind:
            raise UsageError(f"--type {value}: COLUMN=TYPE is needed")
        found[column] = kind
    return found


def window_of(text: str | None) -> Window | None:
    """The value of --keep. Raises: UsageError."""
    from redisai_py.datasets.tail import Window

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([smhdw]?)", text.strip().lower())
    number = float(match[1]) if match else 0
    if match is None or not 0 < number < 1e15 or (not match[2] and number < 1):
        raise UsageError(f"--keep {text}: a number of rows such as 1e6 is needed, or an age such as 30m, 12h or 7d")
    return Window(age_s=number * _SECONDS[match[2]]) if match[2] else Window(rows=int(number))


def bytes_of(option: str, text: str) -> int:
    """A size such as 1MiB. Raises: UsageError."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    size = int(match[1]) * _BYTES.get(match[2].upper(), 0) if match else 0
    if not 0 < size <= 64 * 1024**2:
        raise UsageError(f"{option} {text}: a size up to 64MiB is needed, such as 512KiB")
    return size


def split_files(values: Sequence[str]) -> dict[str, str]:
    """Parse [SPLIT=]FILE arguments; without a split, the name is empty. Raises: UsageError."""
    found: dict[str, str] = {}
    for value in values:
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", value)
        split, path = (match[1], match[2]) if match else ("", value)
        if split in found:
            raise UsageError(f"{value}: there is a file for this split already; several are given as train=A test=B")
        found[split] = path
    if "" in found and len(found) > 1:
        raise UsageError(f"{found['']}: say which split it is, as in train={found['']}")
    return found


def print_version(store: Store, version: Version, output: Output) -> None:
    """Print the new version."""
    from redisai_py.datasets.dataset import Dataset

    made = Dataset.open(store, f"{version.name}:{version.version}")
    stored = sum(shard.layer.size for shard in made.shards())
    fields: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "rows": made.rows,
        "splits": made.splits,
        "shards": len(made.shards()),
        "bytes": sum(shard.layer.content_size for shard in made.shards()),
        "stored": stored,
    }
    splits = "".join(f", {rows} {name}" for name, rows in made.splits.items())
    shards = f"{fields['shards']} shard{'s' if fields['shards'] > 1 else ''}"
    output.line(f"{version}: {made.rows} rows{splits}, {shards}, {size_text(stored)} in Redis", **fields)
