"""`redisai dataset`, commands that read: list, show, print, export, verify."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.artifact_options import (
    ArchiveOption,
    EndpointOption,
    ReferenceArgument,
    open_archive,
)
from redisai_py.cli.command import on_artifacts
from redisai_py.cli.dataset_options import SplitOption
from redisai_py.cli.failures import Exit
from redisai_py.cli.options import names
from redisai_py.cli.output import Output, size_text
from redisai_py.cli.transfers import bar

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts, Store
    from redisai_py.datasets.dataset import Dataset
    from redisai_py.datasets.layout import Columns

__all__ = ["app"]

app = typer.Typer(
    help="Store training data: import tables, split and version them, export tables.", no_args_is_help=True
)

_Columns = Annotated[str | None, typer.Option("--columns", metavar="NAME,...", help="Only these columns.")]
_SHOWN = 12  # columns that fit a terminal
_LONGEST = 60


@on_artifacts(app)
def ls(
    artifacts: Artifacts,
    output: Output,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="Default: all.")] = None,
) -> None:
    """List data sets, or the versions of one."""
    registry = artifacts.store.registry("dataset")
    if name is not None:
        rows = [_version_row(artifacts.store, str(version)) for version in registry.versions(name)]
        output.table(rows, ("version", "rows", "splits", "stored", "aliases", "archived"), "no versions")
        return
    listed = [_name_row(artifacts.store, each) for each in _names(artifacts.store)]
    output.table(listed, ("name", "versions", "rows", "columns", "aliases", "unsealed"), "no data sets")


def _names(store: Store) -> list[str]:
    """Names of all data sets, including those that were appended to but never sealed."""
    from redisai_py.artifacts.connection import scanned

    tails = (name for _, name in scanned(store.redis, f"{store.keys.prefix}tail:dataset:"))
    return sorted({*store.registry("dataset").names(), *tails})


def _name_row(store: Store, name: str) -> dict[str, Any]:
    from redisai_py.artifacts import ArtifactError
    from redisai_py.datasets.follow import followed

    try:
        newest = followed(store, name)
    except ArtifactError as error:
        return {"name": name, "error": str(error)}
    versions = store.registry("dataset").versions(name) if newest.version.version else []
    return {
        "name": name,
        "versions": len(versions),
        "rows": newest.rows,
        "columns": len(newest.schema.columns),
        "aliases": {alias: version.version for version in versions for alias in version.aliases},
        "unsealed": _unsealed(newest),
    }


def _unsealed(dataset: Dataset) -> int:
    """Number of rows appended since."""
    from redisai_py.datasets.tail import START, Tail

    assert dataset.store is not None
    tail = Tail(dataset.store, dataset.version.name)
    return sum(shard.rows for shard in tail.read(dataset.sealed or START))


def _version_row(store: Store, reference: str) -> dict[str, Any]:
    from redisai_py.artifacts import ArtifactError
    from redisai_py.datasets.dataset import Dataset

    try:
        found = Dataset.open(store, reference)
    except ArtifactError as error:
        return {"version": reference, "error": str(error)}
    return {
        "version": reference,
        "rows": found.rows,
        "splits": found.splits,
        "stored": size_text(sum(shard.layer.size for shard in found.shards())),
        "aliases": found.version.aliases,
        "archived": found.version.archived,
        "digest": found.version.digest,
    }


@on_artifacts(app)
def show(artifacts: Artifacts, output: Output, reference: ReferenceArgument) -> None:
    """Show a version: columns, splits, shards, size, and whether Redis holds all of it."""
    from redisai_py.datasets.dataset import Dataset

    found = Dataset.open(artifacts.store, reference)
    shards = found.shards()
    sizes = artifacts.store.blobs.sizes([shard.layer.digest for shard in shards])
    unsealed = _unsealed(found)
    stored = sum(shard.layer.size for shard in shards)
    size = sum(shard.layer.content_size for shard in shards)
    fields: dict[str, Any] = {
        "version": str(found.version),
        "digest": found.version.digest,
        "aliases": found.version.aliases,
        "archived": found.version.archived,
        "rows": found.rows,
        "splits": found.splits,
        "shards": len(shards),
        "missing": sum(sizes[shard.layer.digest] != shard.layer.size for shard in shards),
        "unsealed": unsealed,
    }
    columns = [{"column": c.name, "type": c.type, "shape": list(c.shape), "nan": c.nan} for c in found.schema.columns]
    if output.as_json:
        output.document({**fields, "bytes": size, "stored": stored, "columns": columns})
        return
    told = {name: value for name, value in fields.items() if value}
    ratio = f", {size / stored:.1f}x smaller than raw" if stored and size > 1.05 * stored else ""
    output.fields({**told, "size": f"{size_text(stored)}{ratio}"})
    for row in columns:
        row["nan"] = "may be NaN" if row["nan"] else ""
    output.table(columns, ("column", "type", "shape", "nan"), "no columns")


@on_artifacts(app)
def head(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    rows: Annotated[int, typer.Option("--rows", "-n", metavar="N", min=1, help="Number of rows.")] = 10,
    split: SplitOption = None,
    columns: _Columns = None,
) -> None:
    """Print the first rows. Reads only the shards that hold them."""
    from redisai_py.datasets.dataset import Dataset

    found = Dataset.open(artifacts.store, reference)
    values = found.head(rows, split, names([columns]) if columns else None)
    lines = [dict(zip(values, row, strict=True)) for row in zip(*map(_values, values.values()), strict=True)]
    if output.as_json:
        output.document(lines)
        return
    shown = list(values)[:_SHOWN]
    output.table([{name: _short(line[name]) for name in shown} for line in lines], shown, "no rows")
    if len(values) > _SHOWN:
        typer.echo(f"and {len(values) - _SHOWN} more columns; --columns says which to print", err=True)


def _values(column: Any) -> list[Any]:
    """Values for JSON: a time is a string, a missing value of any kind is null."""
    if column.dtype.kind == "M":
        # NumPy gives a number where a time is in no year from 1 to 9999.
        return [
            value if value is None or isinstance(value, int) else f"{value.isoformat()}Z" for value in column.tolist()
        ]
    return [_value(value) for value in column.tolist()]


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _short(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@on_artifacts(app)
def get(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help=".csv, .parquet or .npz.")],
    split: SplitOption = None,
    columns: _Columns = None,
) -> None:
    """Write the rows of a version to a file, whole or not at all."""
    from redisai_py.cli.files.models import check_directory
    from redisai_py.datasets.dataset import Dataset
    from redisai_py.datasets.tables import table_format, write_table

    with bar("writing") as progress:
        table_format(file)
        check_directory(file)
        found = Dataset.open(artifacts.store, reference)
        shards = found.shards(split)
        total = sum(shard.rows for shard in shards)

        def parts() -> Iterator[Columns]:
            done = 0
            for part in found.batches(split, names([columns]) if columns else None):
                yield part
                done += len(next(iter(part.values())))
                progress(done, total)

        rows = write_table(file, parts())
    size = file.stat().st_size
    output.line(f"{file}: {rows} rows, {size_text(size)}", file=str(file), rows=rows, bytes=size)


@on_artifacts(app)
def verify(
    artifacts: Artifacts,
    output: Output,
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME[:VERSION|@ALIAS]...]", show_default=False, help="Default: everything."),
    ] = None,
    archive: ArchiveOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Compare every blob in Redis or in an archive with its digest. Exit code 1 if anything is wrong."""
    from redisai_py.artifacts.inspect import verify as compare

    with bar("verifying") as progress:
        source = None if archive is None else open_archive(archive, endpoint)
        store = artifacts.store
        registry = store.registry("dataset")
        chosen = registry.select(references or registry.names())
        problems = compare(store, chosen, source, progress)
    rows = [{"version": problem.version, "problem": problem.text} for problem in problems]
    if output.as_json:
        output.document({"versions": [str(version) for version in chosen], "problems": rows})
    else:
        output.table(rows, ("version", "problem"), "all bytes are what their digests say")
    if any(problem.fatal for problem in problems):
        raise typer.Exit(Exit.REFUSED)
