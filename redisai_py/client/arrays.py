"""Conversion between users' data (arrays, lists, torch tensors, objects with DLPack or `__array__`) and tensors.

Imports no framework: a torch tensor is recognised only if torch has been imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.tensor import Buffer, DType, Tensor

__all__ = ["DTYPE_NAMES", "array_of", "dims_of", "dtype_of", "elements_of", "must_convert", "tensor_from", "tensor_of"]

DTYPE_NAMES = {
    **{dtype.name.lower(): dtype for dtype in DType},
    **{dtype.numpy_dtype.name: dtype for dtype in DType if dtype is not DType.STRING},
    "str": DType.STRING,
}
"""Names for a `dtype` argument, in any case. `float` has 32 bits, as in RedisAI, not 64 as in numpy."""


def dtype_of(dtype: Any) -> DType:
    """The dtype for a `dtype` argument: a name in any case, a type, or a numpy dtype.

    Raises: TypeError: None, or an unsupported type.
    """
    if dtype is None:
        raise TypeError("tensorset() missing argument 'dtype' or value of 'dtype' is None")
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype.lower() in DTYPE_NAMES:
        return DTYPE_NAMES[dtype.lower()]
    known = np.dtype(dtype)
    # The name alone does not determine the width: numpy's `int` has 32 or 64 bits, depending on the platform.
    found = None if dtype == "int" else DType.from_numpy(known)
    if found is None or known.kind == "O":
        raise TypeError(f"``{dtype}`` is not supported by RedisAI. Currently supported types are {list(DTYPE_NAMES)}")
    return found


def tensor_of(value: Any) -> Tensor:
    """Convert an array to a tensor.

    Args:    value: a numpy array or scalar, a torch tensor on any device, or an object with `__array__`,
             `__array_interface__` (such as Pillow images) or `__dlpack__`.
    Raises:  TypeError: not an array, or unsupported elements.
    Copies:  none if the array is C-contiguous, little-endian, numeric and in host memory.
    """
    array = _to_numpy(value)
    is_object = array.dtype.kind == "O"
    if DType.from_numpy(array.dtype) is None or (is_object and not all(map(_is_text, array.flat))):
        raise TypeError(f"RedisAI doesn't support tensors of type {array.dtype}")
    return Tensor.from_numpy(array)


def _to_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise TypeError("RedisAI doesn't support tensors with masked elements: fill them first")
        return value
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(value, torch)
    # Try this before DLPack, which lacks strings and some types: TensorFlow aborts if asked for strings through DLPack.
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        try:
            return np.asarray(value)
        except TypeError:  # an array on another device may refuse an implicit copy
            if not hasattr(value, "__dlpack__"):
                raise
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    raise TypeError(f"``tensor`` argument must be a numpy array or a list or a tuple, but got {type(value)}")


def _of_torch(value: Any, torch: Any) -> NDArray[Any]:
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise TypeError("RedisAI doesn't support torch tensors that are sparse, quantized, or on the meta device")
    host = value.detach().cpu().contiguous()
    dtype = DTYPE_NAMES.get(str(host.dtype).removeprefix("torch."))
    if dtype is not None and not dtype.is_numpys_own:  # torch cannot give numpy bfloat16: view the bits as integers
        bits = host.view(torch.int8 if dtype.itemsize == 1 else torch.int16)
        return np.asarray(bits.numpy()).view(dtype.numpy_dtype)
    return np.asarray(host.resolve_conj().resolve_neg().numpy())


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer, np.bool_))


def must_convert(values: Sequence[Any], dtype: DType) -> bool:
    """Whether a list cannot be sent element by element as VALUES to any RedisAI.

    RedisAI does not accept nested lists, bools, numpy scalars, negative integers, NaN or empty strings there. Other
    elements that do not fit the type are left to the server, whose error says so.
    """
    if not all(type(value) in (int, float, str, bytes) for value in values):
        return True
    if dtype is DType.STRING:
        return any(value in ("", b"") for value in values)
    if dtype.is_float:
        return any(value != value for value in values)
    return any(type(value) is int and value < 0 for value in values)


def elements_of(values: Sequence[Any], dtype: DType) -> Tensor:
    """Convert a list, nested or flat, to a tensor.

    Raises: TypeError: fractions for an integer type.   ValueError, OverflowError: from numpy, if the elements do not
            form an array of that type.
    """
    if dtype is DType.STRING:
        array = np.array(values, dtype=object)
        texts = [value if _is_text(value) else str(value) for value in array.flat]
        return Tensor(dtype, array.shape, b"".join(_encode(text) + b"\0" for text in texts))
    # As objects, because numpy converts integers to floats if no single integer type holds all of them.
    integers = dtype.is_float or all(map(_is_integer, np.array(values, dtype=object).flat))
    if not integers:
        raise TypeError(f"elements of a tensor of type {dtype.name} must be integers")
    with np.errstate(over="ignore"):  # 1e39 as FLOAT is inf, as in the server
        return Tensor.from_numpy(np.array(values, dtype=dtype.numpy_dtype))


def _encode(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def tensor_from(tensor: Any, shape: Sequence[int] | None, dtype: Any) -> Tensor:
    """The data of a `tensorset` call as a tensor."""
    if not isinstance(tensor, (list, tuple)):
        return tensor_of(tensor)
    value = elements_of(tensor, dtype_of(dtype))
    return value if shape is None else Tensor(value.dtype, dims_of(shape), value.data)


def dims_of(shape: Iterable[Any]) -> tuple[int, ...]:
    """The shape with numpy integers converted, which redis-py does not send. Raises: TypeError: not a list of sizes."""
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"shape must be a list of sizes such as [2, 3], not {shape!r}")
    return tuple(int(size) if isinstance(size, np.integer) else size for size in shape)


def array_of(dtype: DType, shape: Sequence[int], data: Buffer, encoding: str = "utf-8") -> NDArray[Any]:
    """The array for a tensor's reply: a read-only view of `data`; for STRING an array of str."""
    if dtype is DType.STRING:
        elements = bytes(data).split(b"\0")[:-1]
        return np.array([element.decode(encoding) for element in elements], dtype=np.str_).reshape(shape)
    array = np.frombuffer(data, dtype.numpy_dtype)
    array.flags.writeable = False
    return array.reshape(shape)
