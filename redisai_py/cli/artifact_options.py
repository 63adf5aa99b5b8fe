"""Shared by the commands of `redisai artifact`: options, archives, progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from redisai_py.cli.failures import UsageError
from redisai_py.cli.options import names

if TYPE_CHECKING:
    from redisai_py.artifacts import Archive

__all__ = [
    "ArchiveArgument",
    "ArchiveOption",
    "EncryptOption",
    "EndpointOption",
    "InArchiveOption",
    "ReferenceArgument",
    "ReferencesArgument",
    "VerifyOption",
    "iso_time",
    "name_values",
    "open_archive",
]

ReferenceArgument = Annotated[
    str,
    typer.Argument(metavar="NAME[:VERSION|@ALIAS]", show_default=False, help="A version; a name alone is its newest."),
]
ReferencesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME[:VERSION|@ALIAS]...", show_default=False, help="Versions; a name alone is all of them."
    ),
]
_ARCHIVE_HELP = "s3://BUCKET/PREFIX, gs://..., az://..., file:///DIRECTORY or a directory."
ArchiveArgument = Annotated[str, typer.Argument(metavar="ARCHIVE", show_default=False, help=_ARCHIVE_HELP)]
ArchiveOption = Annotated[
    str | None, typer.Option("--archive", envvar="REDISAI_ARCHIVE", metavar="ARCHIVE", help=_ARCHIVE_HELP)
]
InArchiveOption = Annotated[
    str | None, typer.Option("--archive", metavar="ARCHIVE", help=f"Archive to use instead of Redis: {_ARCHIVE_HELP}")
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint", envvar="AWS_ENDPOINT_URL", metavar="URL", help="Endpoint of an S3 service other than Amazon's."
    ),
]
EncryptOption = Annotated[
    str | None,
    typer.Option(
        "--encrypt", metavar="WORD[=KEY]", help="Server-side encryption of S3: AES256, aws:kms or aws:kms=KEY-ID."
    ),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Recompute the predictions on the server first; fail if they differ.")
]


def open_archive(url: str, endpoint: str | None, encrypt: str | None = None) -> Archive:
    """An archive. Raises: Invalid."""
    from redisai_py.artifacts import Archive

    options = {}
    if encrypt is not None:
        algorithm, _, key = encrypt.partition("=")
        options["aws_server_side_encryption"] = algorithm
        if key:
            options["aws_sse_kms_key_id"] = key
    return Archive(url, endpoint if url.startswith("s3") else None, **options)


def iso_time(at: float) -> str:
    """A time in ISO 8601."""
    import datetime

    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def name_values(values: list[str] | None, option: str) -> dict[str, str]:
    """The values of a NAME=VALUE option."""
    found = {}
    for value in names(values):
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {value}: NAME=VALUE is needed")
        found[name] = text
    return found
