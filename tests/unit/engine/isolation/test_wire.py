"""Messages between the server and an engine process: what is written is read back, and nonsense is refused."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.backend import TensorSpec
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.describing import specs_from_json, specs_to_json
from redisai_py.engine.isolation.wire import Frame, Op, Part
from redisai_py.errors import ProtocolError
from redisai_py.tensor import DType, Tensor

NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]
SHAPES = [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (5000, 7)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_come_back_as_they_were(dtype: DType, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(dtype.numpy_dtype).reshape(shape)
    other = np.arange(3, dtype=np.int64)
    found = memory.sized([array, other])
    message = memoryview(bytearray(found.total))
    memory.write(message, found, [array, other])
    parts = memory.parsed(bytes(message[: len(found.header)]), found.total)
    for own in (False, True):
        first, second = (memory.array_at(message.toreadonly(), part, own) for part in parts)
        assert first is not None
        assert second is not None
        assert first.dtype == array.dtype
        assert first.shape == shape
        assert np.array_equal(first, array)
        assert np.array_equal(second, other)
        if not own:
            assert not first.flags.writeable


def test_strings_cross() -> None:
    tensor = Tensor.from_numpy(np.array([[b"a", b""], [b"long" * 9, b"\xff"]], object))
    part = Part(wire.code_of(tensor.dtype), tensor.shape, len(tensor.data))
    found = wire.layout([part])
    message = memoryview(bytearray(found.total))
    memory.write(message, found, [bytes(tensor.data)])
    (read,) = wire.parse_header(found.header, found.total)
    array = memory.array_at(message, read, own=True)
    assert array is not None
    assert array.tolist() == [[b"a", b""], [b"long" * 9, b"\xff"]]


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_any_header_is_read_or_refused(header: bytes, total: int) -> None:
    try:
        parts = wire.parse_header(header, total)
    except ProtocolError:
        return
    for part in parts:
        assert part.offset + part.nbytes <= total


@pytest.mark.parametrize(
    ("code", "shape", "nbytes"),
    [
        (0, (2,), 4),
        (0, (2**62, 4), 8),
        (0, (2**62, 0), 0),
        (99, (1,), 1),
        (9, (2**60,), 8),
        (wire.NONE, (), 8),
        (wire.ON_DEVICE, (), 0),
        (0, (10,), 40),
    ],
)
def test_a_header_that_does_not_fit_is_refused(code: int, shape: tuple[int, ...], nbytes: int) -> None:
    header = wire.layout([Part(code, shape, nbytes)]).header
    with pytest.raises(ProtocolError):
        wire.parse_header(header, 100 if nbytes == 40 else 1 << 30)


def test_a_header_that_is_cut_off_is_refused() -> None:
    header = wire.layout([Part(0, (2, 3), 24)]).header
    for size in range(1, len(header)):
        with pytest.raises(ProtocolError):
            wire.parse_header(header[:size], 1 << 20)


def test_frames() -> None:
    frame = Frame(Op.DONE, wire.LARGE, 10, 7, 20)
    assert Frame.unpack(frame.pack()) == frame
    for data in (b"", b"x" * 23, struct.pack("<BBHIQQ", 1, 0, 0, 30, 0, 20)):
        with pytest.raises(ProtocolError):
            Frame.unpack(data)


def test_a_shared_file_cannot_be_cut_off() -> None:
    fd = memory.create(4096)
    try:
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(fd, 0)
        with pytest.raises(ProtocolError):
            memory.mapped(fd, 4097)
        assert len(memory.mapped(fd, 4096)) == 4096
    finally:
        os.close(fd)
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(loose, 4096)
        with pytest.raises(ProtocolError, match="could be cut off"):
            memory.mapped(loose, 4096)
        fcntl.fcntl(loose, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory.mapped(loose, 4096).close()
    finally:
        os.close(loose)


@pytest.mark.parametrize("dtype", [None, np.dtype(object), *(dtype.numpy_dtype for dtype in NUMBERS), np.dtype(">f4")])
def test_what_a_model_says_of_its_tensors_comes_back(dtype: Any) -> None:
    specs = [TensorSpec("x\udcff", dtype, (None, 3), "seq(...)"), TensorSpec("")]
    assert specs_from_json(specs_to_json(specs)) == specs
