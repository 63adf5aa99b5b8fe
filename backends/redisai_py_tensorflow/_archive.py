"""A SavedModel in a tar or zip file, unpacked into a directory; nothing is ever written outside of it.

Refused: absolute paths, `..`, links, devices, two members of the same name, and more members or bytes than a model has.
Bytes are counted while they are written, because a header may lie.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from redisai_py.backend import Blob, framework_error, opened
from redisai_py.errors import BackendError

__all__ = ["MAX_MEMBERS", "MAX_RATIO", "MIN_LIMIT_BYTES", "is_archive", "unpack_saved_model"]

MAX_MEMBERS = 10_000
MIN_LIMIT_BYTES = 64 * 1024 * 1024
MAX_RATIO = 20
"""Weights hardly compress, so a file that grows by more than this, and beyond MIN_LIMIT_BYTES, is not a model."""

_CHUNK_BYTES = 1024 * 1024
_MARKER = "saved_model.pb"
_COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


def is_archive(blob: Blob) -> bool:
    """Whether the bytes begin like a zip, tar or compressed tar file (no GraphDef does)."""
    return blob[:4] == b"PK\x03\x04" or blob[:6].startswith(_COMPRESSED_TAR) or blob[257:262] == b"ustar"


def unpack_saved_model(blob: Blob, directory: Path) -> Path:
    """Unpack an archive into an existing, private and empty directory.

    Returns: the directory with `saved_model.pb`: `directory` itself, or the archive's only top-level directory.
    Raises:  BackendError: unreadable, refused (see above), or without a SavedModel.
    """
    budget_bytes = max(MIN_LIMIT_BYTES, MAX_RATIO * len(blob))
    members = _zip_members(blob) if blob[:2] == b"PK" else _tar_members(blob)
    try:
        for count, (name, source) in enumerate(members, start=1):
            if count > MAX_MEMBERS:
                raise BackendError(f"ERR SavedModel archive refused: more than {MAX_MEMBERS} files")
            budget_bytes -= _write(source, directory / _checked(name), budget_bytes)
    except _UNREADABLE as error:
        reason = OSError(error.strerror) if isinstance(error, OSError) and error.strerror else error  # hides our paths
        raise framework_error(reason, "ERR SavedModel archive cannot be read: ") from error
    found = [path for path in (directory, *sorted(directory.iterdir())) if (path / _MARKER).is_file()]
    if not found:
        raise BackendError(f"ERR SavedModel archive holds no {_MARKER}")
    return found[0]


def _zip_members(blob: Blob) -> Iterator[tuple[str, IO[bytes]]]:
    with opened(blob) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _refused(member.filename, "is not an ordinary file")
            with archive.open(member) as source:
                yield member.filename, source


def _tar_members(blob: Blob) -> Iterator[tuple[str, IO[bytes]]]:
    with opened(blob) as file, tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.isdir():
                continue
            source = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if source is None:
                raise _refused(member.name, "is not an ordinary file")
            yield member.name, source


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise _refused(name, "leads out of the archive")
    return path


def _write(source: IO[bytes], target: Path, limit_bytes: int) -> int:
    """Copy one member. Returns: number of bytes written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > limit_bytes:
                raise _refused(target.name, "unpacks to more bytes than a model of this size has")
            file.write(chunk)
    return written


def _refused(name: str, why: str) -> BackendError:
    return BackendError(f"ERR SavedModel archive refused: {name!r} {why}")
