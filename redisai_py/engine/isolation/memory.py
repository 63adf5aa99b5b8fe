"""Memory that the server and one engine process share: a lane's, and files for single large messages.

A file's size is sealed before it is shared, so that neither side can shrink it while the other uses it, which would
cause a SIGBUS there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.engine.isolation.wire import NONE, ON_DEVICE, Layout, Part, code_of, dtype_of, layout, parse_header
from redisai_py.errors import ProtocolError
from redisai_py.tensor import DType, Tensor

__all__ = [
    "LANE_BYTES",
    "LANE_FILE_BYTES",
    "RUNNING_AT",
    "SCRIPT_LANE_BYTES",
    "STAMP",
    "TURN_AT",
    "array_at",
    "columns_of",
    "create",
    "mapped",
    "parsed",
    "part_of",
    "read_only",
    "sized",
    "write",
]

LANE_BYTES = 1 << 20
"""A message up to this size lies in the lane's own memory. Only pages that were used take memory."""
RUNNING_AT = 2 * LANE_BYTES
"""One byte of a lane's memory: whether the process is in the model's run, and not before or behind it."""
TURN_AT = RUNNING_AT + 8
"""Eight bytes: when the run had its turn, in monotonic nanoseconds; only in sessions that one thread may enter."""
STAMP = struct.Struct("<Q")
LANE_FILE_BYTES = 2 * LANE_BYTES + 4096
SCRIPT_LANE_BYTES = 2 * LANE_BYTES
"""Of a script lane: calls, and their results."""
_SMALL_BYTES = 16 * 1024
_LAYOUTS: dict[tuple[Any, ...], Layout] = {}
_PARSED: dict[tuple[bytes, int], list[Part]] = {}
_MOST_LAYOUTS = 256
_SMALL_HEADER = 1024


def create(size: int) -> int:
    """A new in-memory file of this size; the caller closes it. Raises: OSError."""
    fd = os.memfd_create("redisai-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def mapped(fd: int, size: int) -> mmap.mmap:
    """Map a whole shared file. Raises: ProtocolError: its size is wrong, or it could shrink."""
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or os.fstat(fd).st_size < size:
            raise ProtocolError("ERR an engine process sent a file that could be cut off")
        return mmap.mmap(fd, size)
    except (OSError, ValueError) as error:
        raise ProtocolError(f"ERR an engine process sent a file that cannot be mapped: {error}") from error


def read_only(fd: int, size: int) -> mmap.mmap:
    """All of a shared file, not to be written to. Raises: ProtocolError: see `mapped`."""
    mapped(fd, size).close()  # checks it
    return mmap.mmap(fd, size, access=mmap.ACCESS_READ)


def sized(arrays: Sequence[NDArray[Any]]) -> Layout:
    """The layout of a run's inputs, which are arrays of our dtypes except STRING."""
    key = tuple([(array.dtype, array.shape) for array in arrays])
    found = _LAYOUTS.get(key)
    if found is None:
        if len(_LAYOUTS) >= _MOST_LAYOUTS:
            _LAYOUTS.clear()
        found = _LAYOUTS[key] = layout([part_of(array) for array in arrays])
    return found


def parsed(header: bytes, total: int) -> list[Part]:
    """The tensors of a message (see `wire.parse_header`); repeated headers give the same list."""
    found = _PARSED.get((header, total))
    if found is None:
        found = parse_header(header, total)
        if len(header) <= _SMALL_HEADER:
            if len(_PARSED) >= _MOST_LAYOUTS:
                _PARSED.clear()
            _PARSED[header, total] = found
    return found


def part_of(array: NDArray[Any]) -> Part:
    """The description of an array with one of our dtypes except STRING."""
    dtype = DType.from_numpy(array.dtype)
    assert dtype is not None
    return Part(code_of(dtype), array.shape, array.nbytes)


def write(memory: memoryview, found: Layout, data: Sequence[NDArray[Any] | bytes | None]) -> None:
    """Write the message. data: one per tensor, None if there is nothing to write."""
    memory[: len(found.header)] = found.header
    for offset, item in zip(found.offsets, data, strict=True):
        if item is None:
            continue
        if isinstance(item, np.ndarray):
            if item.nbytes > _SMALL_BYTES:  # this copies without the GIL
                flat = np.ascontiguousarray(item).reshape(-1).view(np.uint8)
                np.frombuffer(memory, np.uint8, item.nbytes, offset)[:] = flat
                continue
            item = item.tobytes()
        memory[offset : offset + len(item)] = item


def array_at(memory: memoryview, part: Part, own: bool) -> NDArray[Any] | None:
    """A tensor of a message as an array; None for what is not a tensor.

    Args: own: copy it; otherwise numeric arrays are views of `memory`, and as read-only as that.
    """
    if part.code in (NONE, ON_DEVICE):
        return None
    dtype = dtype_of(part.code)
    if dtype is DType.STRING:
        try:
            return Tensor(dtype, part.shape, bytes(memory[part.offset : part.offset + part.nbytes])).numpy()
        except Exception as error:
            raise ProtocolError(f"ERR an engine process sent malformed strings: {error}") from error
    count = part.nbytes // dtype.itemsize
    if own and part.nbytes <= _SMALL_BYTES:
        data = bytes(memory[part.offset : part.offset + part.nbytes])
        return np.frombuffer(data, dtype.numpy_dtype, count).reshape(part.shape)
    array = np.frombuffer(memory, dtype.numpy_dtype, count, part.offset).reshape(part.shape)
    return array.copy() if own else array


def columns_of(memory: memoryview, parts: Sequence[Part], count: int, stride: int) -> list[NDArray[Any]]:
    """The inputs of `count` runs, each `stride` bytes behind the one before it: one array per input, with one more
    dimension in front, as read-only as `memory`. For tensors of numbers only.
    """
    columns = []
    for part in parts:
        first: NDArray[Any] = np.ndarray(part.shape, dtype_of(part.code).numpy_dtype, memory, part.offset)
        shape, strides = (count, *part.shape), (stride, *first.strides)
        columns.append(np.ndarray(shape, first.dtype, memory, part.offset, strides))
    return columns
