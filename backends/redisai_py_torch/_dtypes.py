"""Torch's dtypes for ours. Torch names them as numpy and ml_dtypes do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from redisai_py.errors import BackendError
from redisai_py.tensor import DType

__all__ = ["BITS", "NO_STRINGS", "NUMPY_DTYPES", "TORCH_DTYPES", "unsupported"]

TORCH_DTYPES: dict[DType, torch.dtype] = {
    dtype: getattr(torch, dtype.numpy_dtype.name)
    for dtype in DType
    if isinstance(getattr(torch, dtype.numpy_dtype.name, None), torch.dtype)
}
NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {kind: dtype.numpy_dtype for dtype, kind in TORCH_DTYPES.items()}
BITS: dict[torch.dtype, torch.dtype] = {
    kind: torch.int8 if dtype.itemsize == 1 else torch.int16
    for dtype, kind in TORCH_DTYPES.items()
    if not dtype.is_numpys_own
}
"""Dtypes that torch neither accepts from numpy nor gives to it -> integers with the same bits."""
NO_STRINGS = "Unsupported code 7"
"""RedisAI's text for a tensor of strings."""
_FOREIGN_NAMES = {
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
    torch.qint8: "QInt8",
    torch.quint8: "QUInt8",
    torch.qint32: "QInt32",
}
"""ATen's names of types that RedisAI's error texts mention."""


def unsupported(kind: torch.dtype) -> BackendError:
    """The error for elements that no tensor of ours has (complex, quantised, float8 ...)."""
    name = _FOREIGN_NAMES.get(kind) or str(kind).removeprefix("torch.").capitalize()
    return BackendError(f"{name} is not supported by dlpack")
