"""A model's bytes: in memory, or in a file if they are large.

A framework that reads a large model from memory holds one or two copies of it besides its weights. From a file it
reads piece by piece. So the bytes of large models are kept in a private temporary file while the model is stored or
loaded (docs/adr/0023).
"""

from __future__ import annotations

import gc
import io
import mmap
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias

from redisai_py.tensor import Buffer

__all__ = ["FROM_FILE", "Blob", "Gathering", "ModelFile", "filed", "opened"]

FROM_FILE = 16 * 1024 * 1024
"""Models of at least this many bytes are kept in files."""
_OPEN_FILES = "/proc/self/fd"


class _Unnamed(io.FileIO):
    """A file that is closed with its last user."""

    def __del__(self) -> None:
        self.close()


class ModelFile(mmap.mmap):
    """The bytes of an unnamed temporary file, which disappears with this object, even if the process is killed.

    path: for this process to open it, read-only.
    """

    _file: _Unnamed
    path: str

    @classmethod
    def over(cls, file: _Unnamed) -> ModelFile:
        """The contents of a file that is not empty. Raises: OSError."""
        blob = cls(file.fileno(), 0, access=mmap.ACCESS_READ)
        blob._file = file
        _collect_soon()
        blob.path = f"{_OPEN_FILES}/{file.fileno()}"
        return blob

    @classmethod
    def over_fd(cls, fd: int) -> ModelFile:
        """The contents of an open file, which is closed with this object. Raises: OSError."""
        return cls.over(_Unnamed(fd, "rb"))

    def fileno(self) -> int:
        """Path of the file, valid as long as this object exists."""
        return self._file.fileno()

    def forget_pages(self) -> None:
        """Stop counting what was read through this object as this process's memory."""
        self.madvise(mmap.MADV_DONTNEED)


def _collect_soon() -> None:
    """Free files that only reference cycles keep open: exceptions refer to stack frames, in cycles.

    Collects young objects only: a model is stored within two such collections, and a full one stops the server for
    long.
    """
    gc.collect(1)


Blob: TypeAlias = bytes | ModelFile


def filed(blob: Blob) -> Blob:
    """The same bytes in a file, which takes no memory of this process; unchanged if there is no space for one."""
    if isinstance(blob, ModelFile) or not blob or not os.path.isdir(_OPEN_FILES):
        return blob
    try:
        with tempfile.TemporaryFile(prefix="redisai-model-") as temporary:
            file = _Unnamed(os.dup(temporary.fileno()), "r+b")
        _write_whole(file, blob)
        return ModelFile.over(file)
    except OSError:
        return blob


def opened(blob: Blob) -> io.BufferedReader | io.BytesIO:
    """The bytes as a readable file. Copies nothing."""
    return open(blob.path, "rb") if isinstance(blob, ModelFile) else io.BytesIO(blob)


class Gathering:
    """Collects pieces into one blob. What does not fit into the temporary directory stays in memory.

    Thread: any, one at a time; a large piece takes as long as the disk.
    """

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self._held = self._written = 0
        self._file: _Unnamed | None = None
        self._no_room = not os.path.isdir(_OPEN_FILES)

    def add(self, pieces: Iterable[Buffer]) -> None:
        """Append the next piece."""
        for piece in pieces:
            self._pieces.append(piece)
            self._held += len(piece)
        if not self._no_room and (self._file is not None or self._held >= FROM_FILE):
            try:
                self._write()
            except OSError:
                self._keep_in_memory()

    def blob(self) -> Blob:
        """The blob; nothing may be added afterwards."""
        if self._file is not None:
            try:
                return ModelFile.over(self._file)
            except OSError:
                self._keep_in_memory()
        return bytes(self._pieces[0]) if len(self._pieces) == 1 else b"".join(self._pieces)

    def _write(self) -> None:
        if self._file is None:
            with tempfile.TemporaryFile(prefix="redisai-model-") as file:
                self._file = _Unnamed(os.dup(file.fileno()), "r+b")
        while self._pieces:
            _write_whole(self._file, self._pieces[0])
            self._written += len(self._pieces.pop(0))

    def _keep_in_memory(self) -> None:
        self._no_room = True
        if self._file is not None:
            with io.BufferedReader(self._file) as file:
                file.seek(0)
                self._pieces.insert(0, file.read(self._written))
            self._file = None


def _write_whole(file: io.FileIO, piece: Buffer) -> None:
    left = memoryview(piece)
    with suppress(ValueError):  # a view of bytes already
        left = left.cast("B")
    while left:
        left = left[file.write(left) :]
