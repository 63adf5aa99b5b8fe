"""Model files: detect the framework, and pack a SavedModel's directory into one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from redisai_py.cli.failures import UsageError
from redisai_py.client.files import backend_of_name, pack_saved_model, replacing
from redisai_py.plugins import backend_names

__all__ = ["STREAM", "backend_of", "check_directory", "read_model", "write_file"]

STREAM = Path("-")
"""Stands for standard input or output instead of a file."""


def backend_of(path: Path, given: str | None) -> str:
    """The given backend, or the one for the file name.

    Raises: UsageError: unknown backend, or an unknown file name.
    """
    if given is not None:
        if given.upper() not in (known := backend_names()):
            raise UsageError(f"--backend {given}: use one of {', '.join(known)}")
        return given.upper()
    if path.is_dir():
        return "TF"
    if backend := backend_of_name(path.name):
        return backend
    names = ", ".join(backend_names())
    raise UsageError(f"{path}: cannot tell the framework from the name; use --backend with one of {names}")


def read_model(path: Path) -> os.PathLike[str] | bytes:
    """The argument for `Client.modelstore`: a file's path, a SavedModel's directory as the bytes of a tar file, or the
    bytes of standard input.

    Raises: UsageError: a directory without a SavedModel, or an empty file.
    """
    if path == STREAM:
        data = sys.stdin.buffer.read()
        if not data:
            raise UsageError("standard input is empty")
        return data
    if not path.is_dir():
        if path.stat().st_size == 0:
            raise UsageError(f"{path}: the file is empty")
        return path
    try:
        return pack_saved_model(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_directory(path: Path) -> None:
    """Check that a file can be written there, before any work is done. Raises: UsageError."""
    if path.is_dir():
        raise UsageError(f"{path}: this is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no directory {path.parent}")


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file under a temporary name, then rename it, so that a failure keeps the old file. Raises: OSError."""
    if path.exists() and not path.is_file():  # /dev/stdout or a pipe: there is no file to replace
        with path.open("wb") as file:
            file.writelines(parts)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(parts)
