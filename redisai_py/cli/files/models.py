"""Model files: detect the framework, and pack a SavedModel's directory into one file."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

from redisai_py.cli.failures import UsageError
from redisai_py.plugins import backend_names

__all__ = ["STREAM", "SUFFIXES", "backend_of", "check_directory", "read_model", "write_file"]

STREAM = Path("-")
"""Stands for standard input or output instead of a file."""

SUFFIXES = {
    ".onnx": "ONNX",
    ".pt": "TORCH",
    ".pth": "TORCH",
    ".pt2": "TORCH",
    ".torchscript": "TORCH",
    ".pb": "TF",
    ".zip": "TF",
    ".tar": "TF",
    ".tar.gz": "TF",
    ".tgz": "TF",
    ".tflite": "TFLITE",
}
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")


def backend_of(path: Path, given: str | None) -> str:
    """The given backend, or the one for the file name.

    Raises: UsageError: unknown backend, an unknown file name, or a directory without a SavedModel.
    """
    if given is not None:
        if given.upper() not in (known := backend_names()):
            raise UsageError(f"--backend {given}: use one of {', '.join(known)}")
        return given.upper()
    if path.is_dir():
        _check_saved_model(path)
        return "TF"
    name = path.name.lower()
    for suffix, backend in SUFFIXES.items():
        if name.endswith(suffix):
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
    _check_saved_model(path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        # Sorted, without dates and owners, so that the same model gives the same bytes.
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            entry = tarfile.TarInfo(file.relative_to(path).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as source:
                archive.addfile(entry, source)
    return packed.getvalue()


def _check_saved_model(path: Path) -> None:
    if not any((path / name).is_file() for name in _SAVED_MODEL):
        raise UsageError(f"{path}: a directory without {_SAVED_MODEL[0]} is not a SavedModel")


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
