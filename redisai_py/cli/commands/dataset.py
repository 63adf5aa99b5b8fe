"""`redisai dataset`: import tables, append, seal, split, promote. Reading is in `dataset_reading`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.artifact_options import ReferenceArgument, ReferencesArgument
from redisai_py.cli.command import on_artifacts
from redisai_py.cli.commands.dataset_reading import app
from redisai_py.cli.dataset_options import (
    KeepOption,
    NameArgument,
    NanOption,
    TypeOption,
    bytes_of,
    nan_policy,
    print_version,
    split_files,
    types_of,
    window_of,
)
from redisai_py.cli.failures import UsageError
from redisai_py.cli.options import names
from redisai_py.cli.output import Output
from redisai_py.cli.transfers import bar

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts, Store
    from redisai_py.datasets.layout import Columns, Schema

__all__ = ["app"]

_Alias = Annotated[list[str] | None, typer.Option("--alias", metavar="ALIAS", help="Alias to set; repeatable.")]
_Columns = Annotated[str | None, typer.Option("--columns", metavar="NAME,...", help="Only these columns.")]


@on_artifacts(app)
def put(
    artifacts: Artifacts,
    output: Output,
    name: NameArgument,
    files: Annotated[
        list[str],
        typer.Argument(metavar="[SPLIT=]FILE...", show_default=False, help="CSV, Parquet or npz files, one per split."),
    ],
    nan: NanOption = "refuse",
    types: TypeOption = None,
    columns: _Columns = None,
    shard_bytes: Annotated[str, typer.Option("--shard-bytes", metavar="SIZE", help="Size of a shard.")] = "1MiB",
    codec: Annotated[str, typer.Option("--codec", metavar="WORD", help="zstd (if it saves a tenth) or none.")] = "zstd",
    alias: _Alias = None,
) -> None:
    """Store a table, or one per split, as the next version of a name."""
    from redisai_py.datasets.tables import read_table
    from redisai_py.datasets.writer import put as put_rows

    if codec not in ("zstd", "none"):
        raise UsageError(f"--codec {codec}: use zstd or none")
    policy, size = nan_policy(nan), bytes_of("--shard-bytes", shard_bytes)
    parts: dict[str, Columns] = {
        split: read_table(path, nan=policy, types=types_of(types), columns=names([columns]) if columns else None)
        for split, path in split_files(files).items()
    }
    with bar("storing") as progress:
        version = put_rows(
            artifacts.store,
            name,
            parts if list(parts) != [""] else parts[""],
            shard_bytes=size,
            compress=codec == "zstd",
            aliases=names(alias),
            nan=policy,
            progress=progress,
        )
    print_version(artifacts.store, version, output)


@on_artifacts(app)
def append(
    artifacts: Artifacts,
    output: Output,
    name: NameArgument,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", show_default=False, help="CSV, Parquet or npz files.")
    ],
    nan: NanOption = "refuse",
    types: TypeOption = None,
    columns: _Columns = None,
    keep: KeepOption = None,
) -> None:
    """Append rows. Following readers see them at once; `seal` makes a version. A file is added whole or not at all."""
    from redisai_py.datasets.layout import row_count
    from redisai_py.datasets.writer import Writer

    window, policy = window_of(keep), nan_policy(nan)
    rows, places = 0, []
    for file in files:
        known = _schema(artifacts.store, name)
        found, schema = _table(file, policy, types_of(types), names([columns]) if columns else None, known)
        writer = Writer(artifacts.store, name, None if known else schema, window)
        places += writer.append(found)
        rows += row_count(found)
    output.line(
        f"{name}: {rows} row{'s' * (rows != 1)} appended in {len(places)} shard{'s' * (len(places) != 1)}",
        name=name,
        rows=rows,
        shards=len(places),
        places=places,
    )


def _schema(store: Store, name: str) -> Schema | None:
    """The schema for rows of this name; None for a new name."""
    from redisai_py.artifacts import Missing
    from redisai_py.datasets.writer import Writer

    try:
        return Writer(store, name).schema
    except Missing:
        return None


def _table(file: Path, nan: Any, types: dict[str, str], columns: Any, known: Schema | None) -> tuple[Any, Schema]:
    """The rows of a file, with the types of a known data set, because a CSV file has no types."""
    from redisai_py.datasets.layout import Schema
    from redisai_py.datasets.tables import read_table, table_columns

    if known is not None:
        there = table_columns(file)
        types = {**{c.name: c.type for c in known.columns if not c.shape and c.name in there}, **types}
        if nan == "refuse" and any(column.nan for column in known.columns):
            nan = "keep"  # the schema says which columns may lack values, and is checked later
    found = read_table(file, nan=nan, types=types, columns=columns)
    return found, Schema.of(found, nan=nan == "keep")


@on_artifacts(app)
def seal(
    artifacts: Artifacts, output: Output, name: NameArgument, alias: _Alias = None, keep: KeepOption = None
) -> None:
    """Make the newest version plus the appended rows the next version."""
    from redisai_py.datasets.writer import Writer

    version = Writer(artifacts.store, name).seal(names(alias), window_of(keep))
    print_version(artifacts.store, version, output)


@on_artifacts(app)
def split(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    test: Annotated[float, typer.Option("--test", metavar="SHARE", help="Share of test rows, between 0 and 1.")] = 0.2,
    stratify: Annotated[
        str | None,
        typer.Option("--stratify", metavar="COLUMN", help="Take the same share of each value of this column."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="COLUMN", help="Order by this time or number; test on the latest.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Keep rows with the same value together.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the split.")] = 0,
    alias: _Alias = None,
) -> None:
    """Split the rows of a version into `train` and `test` of the next version."""
    from redisai_py.datasets.dataset import Dataset
    from redisai_py.datasets.split import Split
    from redisai_py.datasets.writer import split as split_rows

    how = Split(test, stratify, by, group, seed)
    version = split_rows(artifacts.store, Dataset.open(artifacts.store, reference), how, names(alias))
    print_version(artifacts.store, version, output)


@on_artifacts(app)
def promote(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", show_default=False, help="For example training.")],
) -> None:
    """Point an alias to a version."""
    registry = artifacts.store.registry("dataset")
    version = registry.resolve(reference)
    registry.promote(version.name, version.version, alias)
    output.line(f"{version.name}@{alias} is {version}", name=version.name, alias=alias, version=version.version)


@on_artifacts(app)
def rm(artifacts: Artifacts, output: Output, references: ReferencesArgument) -> None:
    """Remove versions; `redisai artifact gc` frees their bytes. Fails while an alias points to one."""
    registry = artifacts.store.registry("dataset")
    chosen = registry.select(references)
    registry.remove_all(chosen)
    removed = [str(version) for version in chosen]
    output.line(f"{', '.join(removed)}: removed", removed=removed)
