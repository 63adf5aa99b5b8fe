"""`redisai artifact`, archives: push, pull, verify, remove, collect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.artifact_options import (
    ArchiveArgument,
    EncryptOption,
    EndpointOption,
    InArchiveOption,
    ReferenceArgument,
    ReferencesArgument,
    open_archive,
)
from redisai_py.cli.command import on_artifacts
from redisai_py.cli.failures import Exit, UsageError
from redisai_py.cli.output import Output, size_text
from redisai_py.cli.transfers import bar

if TYPE_CHECKING:
    from redisai_py.artifacts import Archive, Artifacts

__all__ = ["app"]

app = typer.Typer(
    help="Publish, archive, copy and deploy models with their metrics, files and lineage.", no_args_is_help=True
)

_Kind = Annotated[str, typer.Option("--kind", metavar="WORD", help="artifact, dataset or run.")]
_Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", show_default=False, help="Directory to use.")]
_Some = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME[:VERSION|@ALIAS]...]", show_default=False, help="Default: everything."),
]
_Check = Annotated[bool, typer.Option("--check", help="Also read blobs that Redis has; replace damaged ones.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Report only, change nothing.")]


@on_artifacts(app)
def push(
    artifacts: Artifacts,
    output: Output,
    references: ReferencesArgument,
    archive: ArchiveArgument,
    endpoint: EndpointOption = None,
    encrypt: EncryptOption = None,
    kind: _Kind = "artifact",
) -> None:
    """Copy versions to an archive. Skips what the archive has, so an interrupted push can be resumed."""
    _push(artifacts, output, references, open_archive(archive, endpoint, encrypt), kind)


def _push(artifacts: Artifacts, output: Output, references: list[str], archive: Archive, kind: str) -> None:
    with bar("pushing") as progress:
        done = artifacts.push(references, archive, kind, progress)
    versions = [str(version) for version in done.versions]
    output.line(
        f"{', '.join(versions)}: {done.blobs} blobs sent, {size_text(done.bytes)}, to {archive.url}",
        versions=versions,
        blobs=done.blobs,
        bytes=done.bytes,
        archive=archive.url,
    )


@on_artifacts(app)
def pull(
    artifacts: Artifacts,
    output: Output,
    archive: ArchiveArgument,
    references: _Some = None,
    endpoint: EndpointOption = None,
    kind: _Kind = "artifact",
    check: _Check = False,
) -> None:
    """Copy versions from an archive into Redis. Checks every digest; never moves an existing alias."""
    _pull(artifacts, output, references, open_archive(archive, endpoint), kind, check)


def _pull(
    artifacts: Artifacts, output: Output, references: list[str] | None, archive: Archive, kind: str, check: bool
) -> None:
    with bar("pulling") as progress:
        done = artifacts.pull(archive, references or None, kind, check, progress)
    versions = [str(version) for version in done.versions]
    kept = f"; left as they are here: {', '.join(done.kept)}" if done.kept else ""
    output.line(
        f"{', '.join(versions)}: {done.blobs} blobs fetched, {size_text(done.bytes)}{kept}",
        versions=versions,
        blobs=done.blobs,
        bytes=done.bytes,
        aliases_kept=done.kept,
    )


@on_artifacts(app)
def export(
    artifacts: Artifacts,
    output: Output,
    references: ReferencesArgument,
    directory: _Directory,
    kind: _Kind = "artifact",
) -> None:
    """Write versions to a directory as an OCI image layout, which registry tools can read."""
    _push(artifacts, output, references, open_archive(str(directory), None), kind)


@on_artifacts(app, "import")
def import_(
    artifacts: Artifacts,
    output: Output,
    directory: _Directory,
    references: _Some = None,
    kind: _Kind = "artifact",
    check: _Check = False,
) -> None:
    """Read versions from a directory that `export`, or a registry tool, wrote."""
    if not (directory / "index.json").is_file():
        raise UsageError(f"{directory}: there is no index.json, so this is not an OCI image layout")
    _pull(artifacts, output, references, open_archive(str(directory), None), kind, check)


@on_artifacts(app)
def get(
    artifacts: Artifacts,
    output: Output,
    reference: ReferenceArgument,
    directory: _Directory,
    title: Annotated[
        list[str] | None, typer.Option("--title", metavar="TITLE", help="Only this file; repeatable.")
    ] = None,
) -> None:
    """Write the files of a version to a directory, as published."""
    written = artifacts.get(reference).save(directory, title)
    output.table([{"file": str(path), "bytes": path.stat().st_size} for path in written], ("file", "bytes"), "no files")


@on_artifacts(app)
def verify(
    artifacts: Artifacts,
    output: Output,
    references: _Some = None,
    archive: InArchiveOption = None,
    endpoint: EndpointOption = None,
    predictions: Annotated[bool, typer.Option("--predictions", help="Also recompute the predictions.")] = False,
) -> None:
    """Compare every blob in Redis or in an archive with its digest. Exit code 1 if anything is wrong."""
    with bar("verifying") as progress:
        source = None if archive is None else open_archive(archive, endpoint)
        problems = artifacts.verify(references or None, source, progress)
        parity = [str(found) for text in references or () if predictions for found in artifacts.recompute(text)]
    if output.as_json:
        output.document({"problems": [vars(problem) for problem in problems], "predictions": parity})
    else:
        for line in parity:
            typer.echo(line)
        rows = [{"version": p.version, "problem": p.text} for p in problems]
        output.table(rows, ("version", "problem"), "all bytes are what their digests say")
    if any(problem.fatal for problem in problems):
        raise typer.Exit(Exit.REFUSED)


@on_artifacts(app)
def du(artifacts: Artifacts, output: Output) -> None:
    """Show the size of each name in Redis: its own bytes, shared bytes, and bytes no version needs."""
    used = artifacts.du()
    if output.as_json:
        rows = [
            {"name": name, "alone": alone, "shared": shared} for name, (alone, shared) in sorted(used.names.items())
        ]
        output.document({"total": used.total, "orphans": used.orphans, "names": rows})
        return
    texts = [
        {"name": name, "alone": size_text(alone), "shared": size_text(shared)}
        for name, (alone, shared) in sorted(used.names.items())
    ]
    output.table(texts, ("name", "alone", "shared"), "no artifacts")
    output.fields({"total": size_text(used.total), "orphans": size_text(used.orphans)})


@on_artifacts(app)
def rm(
    artifacts: Artifacts,
    output: Output,
    references: ReferencesArgument,
    archive: InArchiveOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Remove versions from Redis or from an archive; `gc` frees their bytes. Fails while an alias points to one."""
    source = None if archive is None else open_archive(archive, endpoint)
    removed = [str(version) for version in artifacts.rm(references, source)]
    output.line(f"{', '.join(removed)}: removed", removed=removed)


@on_artifacts(app)
def gc(
    artifacts: Artifacts,
    output: Output,
    dry_run: _DryRun = False,
    archive: InArchiveOption = None,
    endpoint: EndpointOption = None,
    older_s: Annotated[
        float, typer.Option("--older", metavar="SECONDS", min=0, help="In an archive: only blobs at least this old.")
    ] = 3600,
) -> None:
    """Delete blobs that no version needs, in Redis or in an archive. Keeps blobs that running commands use."""
    source = None if archive is None else open_archive(archive, endpoint)
    done = artifacts.gc(dry_run, source, older_s)
    _print_collected(done, dry_run, output)


@on_artifacts(app)
def evict(
    artifacts: Artifacts,
    output: Output,
    references: ReferencesArgument,
    archive: Annotated[
        str,
        typer.Option(
            "--archive", envvar="REDISAI_ARCHIVE", metavar="ARCHIVE", help="The archive that holds the versions."
        ),
    ],
    endpoint: EndpointOption = None,
    kind: _Kind = "artifact",
) -> None:
    """Delete files of versions from Redis after checking the copy in the archive. `deploy` fetches them again."""
    done = artifacts.evict(references, open_archive(archive, endpoint), kind)
    _print_collected(done, False, output)


def _print_collected(done: Any, dry_run: bool, output: Output) -> None:
    leased = f", {done.leased} of them for running commands" if done.leased else ""
    verb = "would be removed" if dry_run else "removed"
    output.line(
        f"{done.removed} blobs {verb}, {size_text(done.bytes)}; {done.kept} kept{leased}",
        removed=done.removed,
        bytes=done.bytes,
        kept=done.kept,
        leased=done.leased,
        dry_run=dry_run,
    )
