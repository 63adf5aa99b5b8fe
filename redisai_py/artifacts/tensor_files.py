"""Safetensors files, read as views. Pure.

The library's own `load` copies each tensor, which is noticeable at 2 GB/s. Source of the format:
https://huggingface.co/docs/safetensors: 8 bytes of length, a JSON header, the data.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Invalid

__all__ = ["ITEM_SIZES", "StoredTensor", "tensors_in"]

ITEM_SIZES = {
    "BOOL": 1, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes per element, by the format's type names."""


_MAX_DIMENSIONS = 64
"""As NumPy has it. A product of a million sizes would take minutes."""


class StoredTensor(NamedTuple):
    """A tensor in a file.   dtype: the format's type name.   data: its elements, a view of the file."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def tensors_in(what: str, file: Buffer) -> dict[str, StoredTensor]:
    """The tensors of an untrusted file, by name.

    Args:   what: name of the file in errors.
    Raises: Invalid: not a safetensors file, or a tensor exceeds the file.
    """
    view = memoryview(file)
    try:
        length = int.from_bytes(view[:8], "little")
        if len(view) < 8 or length > len(view) - 8:
            raise ValueError("its header is cut off")
        header = json.loads(bytes(view[8 : 8 + length]))
        data = view[8 + length :]
        return {name: _tensor(name, entry, data) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise Invalid(f"{what} is not a safetensors file: {error}") from None


def _tensor(name: str, entry: dict[str, object], data: memoryview) -> StoredTensor:
    shape, places, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(shape, list) or not isinstance(places, list) or not isinstance(dtype, str):
        raise ValueError(f"the tensor {name[:50]!r} is not described")
    start, stop = places
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the tensor {name[:50]!r} has {len(shape)} dimensions")
    if not all(type(size) is int and 0 <= size <= len(data) for size in (*shape, start, stop)):
        raise ValueError(f"the tensor {name[:50]!r} has no shape or no place")
    if dtype not in ITEM_SIZES:
        raise ValueError(f"the tensor {name[:50]!r} has elements of the type {dtype[:20]!r}")
    if stop - start != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"the tensor {name[:50]!r} does not lie in it")
    return StoredTensor(dtype, tuple(shape), data[start:stop])
