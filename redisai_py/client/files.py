"""The bytes of models: files are mapped into memory, not read; directories are packed; bytes are cut into words.

And files that are written completely or not at all.
"""

from __future__ import annotations

import io
import mmap
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "SUFFIXES",
    "ModelBytes",
    "ModelData",
    "backend_of_name",
    "chunks_of",
    "is_archive",
    "open_model",
    "pack_saved_model",
    "replacing",
]

ModelBytes = bytes | bytearray | memoryview | list[bytes]
ModelData = ModelBytes | os.PathLike[str]

SUFFIXES = {
    ".onnx": "ONNX", ".pt": "TORCH", ".pth": "TORCH", ".pt2": "TORCH", ".torchscript": "TORCH",
    ".pb": "TF", ".zip": "TF", ".tar": "TF", ".tar.gz": "TF", ".tgz": "TF", ".tflite": "TFLITE",
}  # fmt: skip
"""End of a model file's name -> its backend."""
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


def open_model(data: ModelData) -> ModelBytes:
    """The model's bytes: of the file if `data` is a path, otherwise `data` itself.

    Raises: OSError; ValueError: the file is empty.
    """
    if not isinstance(data, os.PathLike):
        return data
    with open(data, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def backend_of_name(name: str) -> str | None:
    """The backend for a file name, None if the name does not tell."""
    return next((backend for suffix, backend in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def pack_saved_model(directory: Path) -> bytes:
    """A SavedModel as a tar file without dates and owners, so that the same model gives the same bytes.

    Raises: ValueError: not a SavedModel.   OSError.
    """
    if not any((directory / name).is_file() for name in _SAVED_MODEL):
        raise ValueError(f"{directory}: a directory without {_SAVED_MODEL[0]} is not a SavedModel")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in sorted(item for item in directory.rglob("*") if item.is_file()):
            entry = tarfile.TarInfo(file.relative_to(directory).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return packed.getvalue()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of the file at the end; after an error, the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_archive(data: ModelBytes) -> bool:
    """Whether it is a zip or tar file, as for a SavedModel; the server checks more closely."""
    first = (data[0] if data else b"") if isinstance(data, list) else data
    head = bytes(memoryview(first)[:512])
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"


def chunks_of(data: Any, size: int) -> list[Any]:
    """The bytes in pieces of at most `size`.

    Raises: TypeError: neither bytes nor a list of bytes as `modelget` returns for a large model.
    """
    if isinstance(data, list) and data:
        return [chunk for part in data for chunk in chunks_of(part, size)]
    if isinstance(data, str):
        raise TypeError(f"data must be the model's bytes or a path; for a file's name write Path({data[:100]!r})")
    try:
        view = memoryview(data).cast("B")
    except TypeError:
        raise TypeError(f"data must be the model's bytes or a path (pathlib.Path), not {type(data)}") from None
    return [view[start : start + size] for start in range(0, len(view), size)] or [b""]
