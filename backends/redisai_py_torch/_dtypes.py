"""Torch's dtypes for ours. Torch names them as numpy and ml_dtypes do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from redisai_py.tensor import DType

__all__ = ["BITS", "NUMPY_DTYPES", "TORCH_DTYPES"]

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
