"""Options and arguments shared by several commands. Imports nothing slow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DEFAULT_URL",
    "BatchOption",
    "DeviceOption",
    "DtypeOption",
    "FileToRead",
    "InputFiles",
    "JsonOption",
    "LayoutOption",
    "MinBatchOption",
    "MinBatchTimeoutOption",
    "OutputFiles",
    "PrefixOption",
    "SizeOption",
    "TagOption",
    "TimeoutOption",
    "UrlOption",
    "key_of",
    "names",
]

DEFAULT_URL = "redis://127.0.0.1:6390"

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="REDISAI_URL",
        metavar="URL",
        help="The server: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or unix:///PATH.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
PrefixOption = Annotated[
    str, typer.Option("--key-prefix", envvar="REDISAI_KEY_PREFIX", metavar="TEXT", help="Prefix of all artifact keys.")
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="WORD", help="CPU, GPU or GPU:N.")]
BatchOption = Annotated[int | None, typer.Option("--batch", metavar="ROWS", help="Merge runs, up to this many rows.")]
MinBatchOption = Annotated[int | None, typer.Option("--min-batch", metavar="ROWS", help="Minimum rows of a run.")]
MinBatchTimeoutOption = Annotated[
    int | None,
    typer.Option("--min-batch-timeout", metavar="MS", help="Maximum wait for --min-batch rows, in milliseconds."),
]
TagOption = Annotated[
    str | None, typer.Option("--tag", metavar="TEXT", help="A note stored with it, for example a version.")
]
TimeoutOption = Annotated[
    int | None,
    typer.Option("--timeout", metavar="MS", min=1, help="Maximum time in the queue, in milliseconds."),
]
InputFiles = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="[NAME=]FILE", help="Tensor file; one per input, in order or by name."),
]
OutputFiles = Annotated[
    list[str] | None,
    typer.Option("--output", "-o", metavar="[NAME=]FILE", help="File for an output. By default outputs are printed."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="Convert the elements to this type: float, int64, bool ..."),
]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Scale the image to this size.")]
LayoutOption = Annotated[
    str | None, typer.Option("--layout", metavar="WORD", help="Order of an image's axes: hwc, chw, nhwc or nchw.")
]
FileToRead = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, readable=True, show_default=False, help="The file to send.")
]


def key_of(argument: str) -> bytes:
    """A key from the command line, as the bytes that were typed."""
    return os.fsencode(argument)


def names(values: list[str] | None) -> list[str]:
    """Names from a repeatable option whose values may contain several names, separated by commas."""
    return [name for value in values or () for name in value.split(",") if name]
