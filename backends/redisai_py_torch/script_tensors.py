"""Tensors in the frames and in the shared memory of a script lane (`redisai_py.engine.torchscript.frames`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from redisai_py.errors import BackendError
from redisai_py.tensor import Buffer, DType
from redisai_py_torch._dtypes import NO_STRINGS, TORCH_DTYPES, unsupported

__all__ = ["decode_tensors", "encode_output", "encode_tensors", "input_at"]

_ALIGNMENT = 16

_BY_NAME = {dtype.name: kind for dtype, kind in TORCH_DTYPES.items()}
_NAMES = {kind: name for name, kind in _BY_NAME.items()}
_DTYPES = {kind: dtype for dtype, kind in TORCH_DTYPES.items()}

Meta = list[Any]
"""One tensor in a header: [dtype name, shape, bytes]."""


def decode_tensors(metas: Iterable[Meta], payload: memoryview, offset: int = 0) -> tuple[list[torch.Tensor], int]:
    """Tensors on the CPU that share the payload's memory, and the offset after the last one.

    Raises: BackendError for STRING, which torch does not have (text: 02 section 11 of RedisAI's command reference).
    """
    tensors = []
    for name, shape, size in metas:
        dtype = _BY_NAME.get(name)
        if dtype is None:
            raise BackendError(NO_STRINGS)
        count = math.prod(shape)
        if count:
            flat = torch.frombuffer(payload, dtype=dtype, count=count, offset=offset)
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors.append(flat.reshape(shape))
        offset += size + -size % _ALIGNMENT
    return tensors, offset


def encode_tensors(tensors: Iterable[torch.Tensor]) -> tuple[list[Meta], list[Any]]:
    """Headers and payload parts of tensors on any device; at most one copy (device, strides).

    Raises: BackendError for dtypes that RedisAI's tensors do not have (complex, quantised, float8 ...).
    """
    metas: list[Meta] = []
    parts: list[Any] = []
    for tensor in tensors:
        name = _NAMES.get(tensor.dtype)
        if name is None:
            raise unsupported(tensor.dtype)
        flat = _dense(tensor.detach()).reshape(-1)
        size = flat.numel() * flat.element_size()
        metas.append([name, list(tensor.shape), size])
        if size:
            parts.append(flat.view(torch.uint8).numpy().data)
            parts.append(bytes(-size % _ALIGNMENT))
    return metas, parts


def input_at(memory: memoryview, dtype: DType, shape: tuple[int, ...], nbytes: int, offset: int) -> torch.Tensor:
    """A tensor on the CPU that shares this memory. Raises: BackendError: see `decode_tensors`."""
    kind = TORCH_DTYPES.get(dtype)
    if kind is None:
        raise BackendError(NO_STRINGS)
    if not nbytes:
        return torch.empty(shape, dtype=kind)
    count = nbytes // dtype.itemsize
    flat = torch.frombuffer(memory, dtype=kind, count=count, offset=offset)
    return flat if shape == (count,) else flat.reshape(shape)


def encode_output(tensor: torch.Tensor) -> tuple[DType, tuple[int, ...], Buffer]:
    """Element type, shape and data of a tensor on any device, in memory of its own. Raises: see `encode_tensors`."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise unsupported(tensor.dtype)
    try:
        data = tensor.numpy().tobytes()
    except (TypeError, RuntimeError):  # not on the CPU, not dense, lazily negated, or no type of numpy's
        flat = _dense(tensor.detach()).reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return dtype, tensor.shape, data


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, in C order."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()  # applies a lazy minus sign, which raw memory does not show
    return tensor.cpu().contiguous()
