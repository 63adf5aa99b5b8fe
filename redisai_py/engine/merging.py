"""Merges the inputs of several runs into one, and splits the outputs. Pure: tensors and arrays only.

Rules: merged inputs agree in dtype and in all dimensions but the first. Small tensors are joined as bytes, in one call
for all of them; large ones as arrays, so that the copy happens without the GIL. A small output owns its bytes, so that
keeping one member's part does not keep the whole batch; a large one is a view of the batch's output.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from redisai_py.backend import Array, DeviceArray
from redisai_py.errors import BackendError, ShapeMismatch
from redisai_py.tensor import Device, DType, Tensor

__all__ = ["BatchSizeMismatch", "Value", "merge", "signature", "split", "to_array", "to_value"]

Value = Tensor | DeviceArray | None
"""One output: None if the model returned something that is not a tensor."""


class BatchSizeMismatch(ShapeMismatch):
    """An output's dimension 0 is not the batch's. Clients never see this, because the runs are repeated singly."""


_SMALL_BYTES = 16 * 1024
_DLPACK_CUDA = 2

# Keyed by the frameworks' dtypes: little-endian and native byte order are one dtype to numpy.
_DTYPES = {dtype.numpy_dtype: dtype for dtype in DType if dtype is not DType.STRING}


def signature(inputs: Sequence[Tensor | DeviceArray]) -> tuple[int, Hashable]:
    """What determines with which other runs these inputs may be merged.

    Returns: (rows, key): dimension 0 that all inputs share, and their dtypes and other dimensions. Rows are 0 if inputs
             disagree or one has no dimension; the key is None if an input is on a device.
    """
    if len(inputs) == 1:
        only = inputs[0]
        if type(only) is Tensor:
            shape = only.shape
            return (shape[0], (only.dtype, shape[1:])) if shape else (0, only.dtype)
        return 0, None
    if len(inputs) == 2:  # the general case below, at half the cost: a message and a state
        one, other = inputs
        if type(one) is Tensor and type(other) is Tensor:
            shape, second = one.shape, other.shape
            if shape and second and shape[0] == second[0] > 0:
                return shape[0], (one.dtype, shape[1:], other.dtype, second[1:])
    rows = -1
    key: list[Hashable] = []
    for value in inputs:
        if type(value) is not Tensor:
            return 0, None
        shape = value.shape
        own = shape[0] if shape else 0
        if own != rows:
            rows = own if rows < 0 else 0
        key += (value.dtype, shape[1:])
    if rows > 0:
        return rows, tuple(key)
    return 0, tuple((value.dtype, value.shape) for value in inputs if isinstance(value, Tensor))


def to_array(value: Tensor | DeviceArray, device: Device) -> Array:
    """An input of a run that is executed alone on `device`; copies only what is on another accelerator."""
    if not isinstance(value, Tensor):
        is_there = device.kind == "GPU" and value.__dlpack_device__() == (_DLPACK_CUDA, device.index or 0)
        return value if is_there else value.numpy()
    return value.numpy()


def merge(parts: Sequence[Sequence[Tensor]], rows: int) -> list[Array]:
    """Merge the inputs of several runs into those of one.

    Args:    parts: per run its inputs, with the same signature.   rows: their sum.
    Returns: one array per input, (rows, *shape[1:]), read-only.   Copies: one.
    """
    arrays: list[Array] = []
    for column in zip(*parts, strict=True):
        first = column[0]
        if first.dtype.is_string or len(first.data) > _SMALL_BYTES:
            array = np.concatenate([tensor.numpy() for tensor in column])
            array.flags.writeable = False
        else:
            data = b"".join([tensor.data for tensor in column])
            array = np.frombuffer(data, first.dtype.numpy_dtype).reshape(rows, *first.shape[1:])
        arrays.append(array)
    return arrays


def to_value(output: Any) -> Value:
    """Convert a plugin's output of a run that was executed alone.

    Raises: ShapeMismatch: unsupported dtype.   BackendError: not a value that a plugin may return.
    """
    if not isinstance(output, ndarray):
        if isinstance(output, np.generic):
            return Tensor.from_numpy(np.asarray(output))
        if output is not None and not isinstance(output, DeviceArray):
            raise BackendError(f"ERR the backend returned a {type(output).__name__} instead of an array")
        return output
    dtype = _DTYPES.get(output.dtype)
    if dtype is None or output.nbytes > _SMALL_BYTES:
        return Tensor.from_numpy(output)
    return Tensor(dtype, output.shape, output.tobytes())


def split(outputs: Sequence[Array | None], sizes: Sequence[int]) -> list[list[Value]]:
    """Split the outputs of a merged run.

    Args:    sizes: rows per member.
    Returns: per member one value per output, (size, *shape[1:]); None stays None.
    Raises:  BatchSizeMismatch: an output does not have the rows of all members together, or is on a device.
    """
    rows = sum(sizes)
    members: list[list[Value]] = [[] for _ in sizes]
    for place, output in enumerate(outputs, 1):
        if output is None:
            for member in members:
                member.append(None)
        elif not isinstance(output, ndarray) or output.ndim == 0 or output.shape[0] != rows:
            shape = "x".join(map(str, getattr(output, "shape", ()))) or "()"
            raise BatchSizeMismatch(f"ERR output {place} has the shape {shape} for {rows} rows of input")
        else:
            _split_one(output, sizes, members)
    return members


def _split_one(output: NDArray[Any], sizes: Sequence[int], members: Sequence[list[Value]]) -> None:
    dtype = _DTYPES.get(output.dtype)
    start = 0
    if dtype is None:
        for size, member in zip(sizes, members, strict=True):
            member.append(Tensor.from_numpy(output[start : start + size]))
            start += size
        return
    tail = output.shape[1:]
    shape = (sizes[0], *tail)
    row_bytes = output.nbytes // output.shape[0]
    small = row_bytes * max(sizes) <= _SMALL_BYTES
    data = output.tobytes() if small else Tensor.from_numpy(output).data
    for size, member in zip(sizes, members, strict=True):
        end = start + size * row_bytes
        if size != shape[0]:
            shape = (size, *tail)
        member.append(Tensor(dtype, shape, data[start:end]))
        start = end
