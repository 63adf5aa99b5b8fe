"""`redisai artifact`: publish, inspect, promote and deploy models. Copying is in `artifact_archive`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.artifact_options import (
    ArchiveOption,
    EndpointOption,
    ReferenceArgument,
    VerifyOption,
    iso_time,
    name_values,
    open_archive,
)
from redisai_py.cli.command import on_artifacts
from redisai_py.cli.commands.artifact_archive import app
from redisai_py.cli.options import BatchOption, DeviceOption, MinBatchOption, MinBatchTimeoutOption, names
from redisai_py.cli.output import Output, size_text
from redisai_py.cli.transfers import bar

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts

__all__ = ["app"]

_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The artifact's name.")]
_Key = Annotated[str | None, typer.Option("--key", "-k", metavar="KEY", help="Key of the model. Default: NAME.")]
_Alias = Annotated[str, typer.Argument(metavar="ALIAS", show_default=False, help="For example production.")]


@on_artifacts(app)
def publish(
    artifacts: Artifacts,
    output: Output,
    name: _Name,
    model: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False, help="Model files.")],
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="WORD", help="Default: from the file name.")
    ] = None,
    inputs: Annotated[list[str] | None, typer.Option("--inputs", metavar="NAME,...", help="TF only.")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--outputs", metavar="NAME,...", help="TF only.")] = None,
    metrics: Annotated[Path | None, typer.Option("--metrics", metavar="FILE", help="JSON: names and numbers.")] = None,
    predictions: Annotated[Path | None, typer.Option("--predictions", metavar="FILE", help="Parquet file.")] = None,
    analysis: Annotated[Path | None, typer.Option("--analysis", metavar="FILE", help="Any JSON.")] = None,
    definition: Annotated[
        Path | None, typer.Option("--definition", metavar="FILE", help="How the model was made.")
    ] = None,
    plot: Annotated[list[Path] | None, typer.Option("--plot", metavar="FILE", help="A picture; repeatable.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", metavar="FILE", help="Any other file; repeatable.")
    ] = None,
    lineage: Annotated[
        list[str] | None, typer.Option("--from", metavar="NAME=DIGEST", help="Lineage; repeatable.")
    ] = None,
    environment: Annotated[bool, typer.Option("--environment", help="Record Python, packages, Git commit.")] = False,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="ALIAS", help="Alias to set; repeatable.")
    ] = None,
    verify: VerifyOption = False,
) -> None:
    """Publish a model, with its metrics and files, as the next version of a name. Pickles are refused."""
    from redisai_py.artifacts import Contents, Predictions
    from redisai_py.artifacts import environment as at_hand

    kept: Any = predictions if predictions is None or not verify else Predictions.from_parquet(predictions.read_bytes())
    contents = Contents(
        {path.name + (".tar" if path.is_dir() else ""): path for path in model},
        backend=backend,
        inputs=names(inputs),
        outputs=names(outputs),
        metrics=_json_file(metrics),
        predictions=kept,
        analysis=_json_file(analysis),
        plots={path.name: path for path in plot or ()},
        environment=at_hand() if environment else None,
        definition=definition,
        files={path.name: path for path in file or ()},
        lineage=name_values(lineage, "--from"),
    )
    version = artifacts.publish(name, contents, names(alias), verify)
    output.line(f"{version}  {version.digest}", name=name, version=version.version, digest=version.digest)


def _json_file(path: Path | None) -> Any:
    from redisai_py.artifacts.manifest import decode_json

    return None if path is None else decode_json(path.name, path.read_bytes())


@on_artifacts(app)
def ls(
    artifacts: Artifacts,
    output: Output,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="Default: all names.")] = None,
) -> None:
    """List artifacts, or the versions of one."""
    if name is not None:
        rows = [
            {"version": str(v), "aliases": v.aliases, "archived": v.archived, "digest": v.digest}
            for v in artifacts.versions(name)
        ]
        output.table(rows, ("version", "aliases", "archived", "digest"), "no versions")
        return
    listed = []
    for each in artifacts.names():
        versions = artifacts.versions(each)
        aliases = {alias: version.version for version in versions for alias in version.aliases}
        listed.append({"name": each, "versions": len(versions), "newest": versions[-1].version, "aliases": aliases})
    output.table(listed, ("name", "versions", "newest", "aliases"), "no artifacts")


@on_artifacts(app)
def show(artifacts: Artifacts, output: Output, reference: ReferenceArgument) -> None:
    """Show a version: metrics, files, lineage, aliases, deployments, size."""
    seen = artifacts.show(reference)
    layers: list[dict[str, Any]] = [
        {"title": layer.title, "bytes": layer.content_size, "stored": layer.size, "type": layer.media_type,
         "digest": layer.content_digest, "in_redis": layer.title not in seen.missing}
        for layer in seen.manifest.layers
    ]  # fmt: skip
    fields: dict[str, Any] = {
        "version": str(seen.version),
        "digest": seen.version.digest,
        "aliases": seen.version.aliases,
        "metrics": seen.metrics,
        "lineage": seen.lineage,
        "deployed": seen.deployed,
        "size": size_text(seen.size),
        "archived": seen.version.archived,
        "versions": [str(v) + "".join(f" @{alias}" for alias in v.aliases) for v in seen.versions],
    }
    if output.as_json:
        output.document({**fields, "size": seen.size, "layers": layers})
        return
    output.fields({name: value for name, value in fields.items() if value})
    for row in layers:
        row |= {"bytes": size_text(row["bytes"]), "where": "" if row["in_redis"] else "archive alone"}
    output.table(layers, ("title", "bytes", "digest", "where"), "no files")


@on_artifacts(app)
def diff(artifacts: Artifacts, output: Output, one: ReferenceArgument, other: ReferenceArgument) -> None:
    """Compare two versions: metrics side by side, which files changed, how many bytes are new."""
    seen = artifacts.diff(one, other)
    if output.as_json:
        output.document({"metrics": seen.metrics, "layers": seen.layers, "shared": seen.shared, "new": seen.new})
        return
    rows = [{"metric": name, one: a, other: b, "change": _change(a, b)} for name, (a, b) in seen.metrics.items()]
    if rows:
        output.table(rows, ("metric", one, other, "change"), "")
    output.fields({**seen.layers, "new bytes": f"{size_text(seen.new)} of {size_text(seen.new + seen.shared)}"})


def _change(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, after))
    try:
        return f"{after - before:+g}" if numbers else ""
    except OverflowError:  # an integer that no float holds
        return ""


@on_artifacts(app)
def log(
    artifacts: Artifacts,
    output: Output,
    name: _Name,
    count: Annotated[
        int | None, typer.Option("--count", "-n", metavar="N", min=1, help="Maximum number of entries.")
    ] = None,
) -> None:
    """Show the log of publications, promotions, deployments and removals, newest first."""
    entries = artifacts.log(name, count)
    rows = [{"at": iso_time(e.at), "who": e.who, "event": e.event, "what": dict(e.fields)} for e in entries]
    output.table(rows, ("at", "who", "event", "what"), "nothing is logged")


@on_artifacts(app)
def promote(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    alias: _Alias,
    expect: Annotated[
        int | None,
        typer.Option("--expect", metavar="VERSION", help="Only if the alias points to this version; 0 for none."),
    ] = None,
) -> None:
    """Point an alias to a version. If two commands do so at the same time, one of them fails."""
    expected = ... if expect is None else (expect or None)
    version = artifacts.promote(reference, alias, expected)
    output.line(
        f"{version.name}@{alias} is {version}",
        name=version.name,
        alias=alias,
        version=version.version,
        digest=version.digest,
    )


@on_artifacts(app)
def demote(artifacts: Artifacts, output: Output, name: _Name, alias: _Alias) -> None:
    """Remove an alias."""
    artifacts.demote(name, alias)
    output.line(f"{name}@{alias}: removed", name=name, alias=alias)


@on_artifacts(app)
def deploy(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    key: _Key = None,
    device: DeviceOption = "CPU",
    batch: BatchOption = None,
    min_batch: MinBatchOption = None,
    min_batch_timeout: MinBatchTimeoutOption = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="TITLE", help="The model to use, if there are several.")
    ] = None,
    verify: VerifyOption = False,
    archive: ArchiveOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Serve a version under a key. Checks its digest; fetches it from the archive if it is not in Redis."""
    from redisai_py.artifacts import Reference, Settings

    with bar("deploying") as progress:
        chosen = key or Reference.parse(reference).name
        source = None if archive is None else open_archive(archive, endpoint)
        settings = Settings(device, batch, min_batch, min_batch_timeout)
        done = artifacts.deploy(reference, chosen, settings, model, verify, archive=source, progress=progress)
    _print_deployed(done, output)


@on_artifacts(app)
def rollback(artifacts: Artifacts, output: Output, name: _Name, key: _Key = None, verify: VerifyOption = False) -> None:
    """Serve the previous version of a key again, according to the log."""
    done = artifacts.rollback(name, key or name, verify)
    _print_deployed(done, output)


def _print_deployed(done: Any, output: Output) -> None:
    was = f", was {done.version.name}:{done.was}" if done.was is not None else ""
    checked = "".join(f"; {parity}" for parity in done.parity)
    output.line(
        f"{done.key}: {done.version} ({done.title}){was}{checked}",
        key=done.key,
        version=str(done.version),
        digest=done.version.digest,
        model=done.title,
        was=done.was,
        difference=max((parity.difference for parity in done.parity), default=None),
    )
