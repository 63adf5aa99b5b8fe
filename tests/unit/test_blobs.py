"""Bytes of models, in memory and in files."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
import weakref
from typing import Any

import pytest

from redisai_py import blobs
from redisai_py.blobs import FROM_FILE, Gathering, ModelFile, filed, opened

PIECE = os.urandom(1024) * 5 * 1024  # 5 MiB


def gathered(*pieces: Any) -> blobs.Blob:
    gathering = Gathering()
    for piece in pieces:
        gathering.add([piece])
    return gathering.blob()


def test_few_bytes_stay_in_memory_as_they_are() -> None:
    blob = b"abc"
    assert gathered(blob) is blob
    assert gathered(b"ab", memoryview(b"c")) == b"abc"
    assert gathered() == b""


def test_many_bytes_are_in_a_file_without_a_name() -> None:
    blob = gathered(PIECE, memoryview(PIECE), bytearray(PIECE), PIECE, b"", b"end")
    assert isinstance(blob, ModelFile)
    assert len(blob) == 4 * len(PIECE) + 3 > FROM_FILE
    assert blob[:] == PIECE * 4 + b"end"
    with opened(blob) as file, opened(blob) as other:
        assert file.read() == other.read() == PIECE * 4 + b"end"
    assert "(deleted)" in os.readlink(blob.path)
    path = blob.path
    del blob, file, other
    assert not os.path.exists(path) or "redisai-model" not in os.readlink(path)


def test_what_the_disk_has_no_room_for_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    room = [2 * len(PIECE) + 100]

    def write(file: Any, piece: Any) -> None:
        file.write(memoryview(piece)[: room[0]])
        room[0] -= len(piece)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs, "_write_whole", write)
    assert gathered(*[PIECE] * 4, b"end") == PIECE * 4 + b"end"


def test_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    assert gathered(*[PIECE] * 4) == PIECE * 4


def test_a_file_that_only_a_cycle_holds_goes_before_the_next_one_comes() -> None:
    """An error refers to the frames that it came through, and so to the model that was refused."""
    gc.disable()
    try:
        cycle: list[Any] = [gathered(*[PIECE] * 4)]
        cycle.append(cycle)
        gone = weakref.ref(cycle[0])
        del cycle
        assert gone() is not None
        assert isinstance(gathered(*[PIECE] * 4), ModelFile)
        assert gone() is None
    finally:
        gc.enable()


def test_bytes_are_put_into_a_file_once() -> None:
    blob = filed(PIECE)
    assert isinstance(blob, ModelFile)
    assert blob[:] == PIECE
    assert filed(blob) is blob
    with opened(blob) as file:
        assert file.read() == PIECE
    again = ModelFile.over_fd(os.dup(blob.fileno()))
    assert again[:] == PIECE
    assert filed(b"") == b""


def test_bytes_stay_in_memory_where_there_is_no_room_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(blobs, "_write_whole", full)
    assert filed(PIECE) is PIECE
