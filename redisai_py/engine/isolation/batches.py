"""A batch of runs as one message, and the message that comes back as the outputs of each. Pure: no copy but one.

The data of tensors goes straight from the clients' bytes into the message, and from the message into tensors, without
arrays in between. Rules of merging and splitting are those of `engine.merging`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from redisai_py.backend import Array
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.pipe_layout import stride_of
from redisai_py.engine.isolation.wire import Layout, Part
from redisai_py.engine.merging import BatchSizeMismatch, Value, split, to_value
from redisai_py.tensor import DType, Tensor

__all__ = ["Plain", "is_plain", "layout_of", "values_of", "write", "write_each"]

_SMALL_BYTES = 16 * 1024
_NO_NUMBERS = (wire.NONE, wire.ON_DEVICE, wire.code_of(DType.STRING))


def layout_of(inputs: Sequence[Tensor], rows: int) -> Layout | None:
    """The message of runs whose inputs look like these, with `rows` rows in all; 0: as they are.

    Returns: None for strings, whose data has no size that follows from the shape.
    """
    parts = []
    for tensor in inputs:
        dtype = tensor.dtype
        if dtype is DType.STRING:
            return None
        shape = (rows, *tensor.shape[1:]) if rows else tensor.shape
        row_bytes = len(tensor.data) // tensor.shape[0] if rows else len(tensor.data)
        parts.append(Part(wire.code_of(dtype), shape, row_bytes * rows if rows else row_bytes))
    return wire.layout(parts)


def write(message: memoryview, layout: Layout, members: Sequence[Sequence[Tensor]]) -> None:
    """Put the inputs of each run behind those of the one before it."""
    if len(members) == 1:
        for start, tensor in zip(layout.offsets, members[0], strict=True):
            data = tensor.data
            message[start : start + len(data)] = data
        return
    for start, column in zip(layout.offsets, zip(*members, strict=True), strict=True):
        for tensor in column:
            end = start + len(tensor.data)
            message[start:end] = tensor.data
            start = end


def write_each(message: memoryview, layout: Layout, members: Sequence[Sequence[Tensor]]) -> None:
    """Put the inputs of each run where a message of several runs has them; see `pipe_layout.REQUEST`."""
    stride = stride_of(len(layout.header), layout.total)
    shift = 0
    for inputs in members:
        for start, tensor in zip(layout.offsets, inputs, strict=True):
            data = tensor.data
            message[shift + start : shift + start + len(data)] = data
        shift += stride


def values_of(parts: Sequence[Part], message: memoryview, sizes: Sequence[int]) -> list[list[Value]]:
    """The outputs of each run. sizes: rows of each; of a single run they are not looked at.

    Raises: BatchSizeMismatch: see `merging.split`.   ProtocolError.
    """
    if not is_plain(parts):
        arrays: list[Array | None] = [memory.array_at(message, part, own=True) for part in parts]
        return [[to_value(array) for array in arrays]] if len(sizes) == 1 else split(arrays, sizes)
    if len(sizes) == 1:
        return [Plain(parts).values(message)]
    rows = sum(sizes)
    bounds = [0, *accumulate(sizes)]
    columns = [_members(part, message, rows, bounds) for part in parts]
    return [list(member) for member in zip(*columns, strict=True)] if columns else [[] for _ in sizes]


class Plain:
    """What answers of one kind hold: numbers in small tensors, whose places follow from the header.

    slots: per output its dtype, shape, and where its data begin and end.
    """

    __slots__ = ("slots",)

    def __init__(self, parts: Sequence[Part]) -> None:
        self.slots = [(wire.dtype_of(part.code), part.shape, part.offset, part.offset + part.nbytes) for part in parts]

    def values(self, message: memoryview) -> list[Value]:
        """The outputs of a single run, as `values_of`."""
        return [Tensor(dtype, shape, bytes(message[start:end])) for dtype, shape, start, end in self.slots]


def is_plain(parts: Sequence[Part]) -> bool:
    """Whether `Plain` describes them."""
    return not any([part.code in _NO_NUMBERS or part.nbytes > _SMALL_BYTES for part in parts])


def _members(part: Part, message: memoryview, rows: int, bounds: Sequence[int]) -> list[Value]:
    shape = part.shape
    if not shape or shape[0] != rows:
        text = "x".join(map(str, shape)) or "()"
        raise BatchSizeMismatch(f"ERR an output has the shape {text} for {rows} rows of input")
    dtype = wire.dtype_of(part.code)
    tail = shape[1:]
    row_bytes = part.nbytes // rows
    data = bytes(message[part.offset : part.offset + part.nbytes])
    return [
        Tensor(dtype, (end - start, *tail), data[start * row_bytes : end * row_bytes])
        for start, end in pairwise(bounds)
    ]
