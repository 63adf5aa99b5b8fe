"""Between what users hold (arrays, lists, torch tensors, anything with DLPack or `__array__`) and tensors on the wire.

No framework is imported: a torch tensor is recognised only if torch is there already.
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
"""Names that a `dtype` argument may have, in any case. `float` is 32 bits wide, as in RedisAI, not 64 as in numpy."""


def dtype_of(dtype: Any) -> DType:
    """The element type that a `dtype` argument means: a name in any case, a type, or a numpy dtype.

    Raises: TypeError: None, or nothing we have.
    """
    if dtype is None:
        raise TypeError("tensorset() missing argument 'dtype' or value of 'dtype' is None")
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype.lower() in DTYPE_NAMES:
        return DTYPE_NAMES[dtype.lower()]
    known = np.dtype(dtype)
    # numpy's `int` is 32 or 64 bits wide depending on the platform, so the name alone says too little.
    found = None if dtype == "int" else DType.from_numpy(known)
    if found is None or known.kind == "O":
        raise TypeError(f"``{dtype}`` is not supported by RedisAI. Currently supported types are {list(DTYPE_NAMES)}")
    return found


def tensor_of(value: Any) -> Tensor:
    """The tensor of an array.

    Args:    value: a numpy array or scalar, a torch tensor on any device, or anything with `__array__`,
             `__array_interface__` (as images of Pillow) or `__dlpack__`.
    Raises:  TypeError: not an array, or elements that no DType holds.
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
    # Before DLPack, which has neither texts nor all types: TensorFlow ends the process when asked for texts that way.
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        try:
            return np.asarray(value)
        except TypeError:  # an array of another device may refuse to be copied over unasked
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
    if dtype is not None and not dtype.is_numpys_own:  # torch gives numpy no bfloat16: the same bits as integers
        bits = host.view(torch.int8 if dtype.itemsize == 1 else torch.int16)
        return np.asarray(bits.numpy()).view(dtype.numpy_dtype)
    return np.asarray(host.resolve_conj().resolve_neg().numpy())


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer, np.bool_))


def must_convert(values: Sequence[Any], dtype: DType) -> bool:
    """Whether a list cannot go word by word as VALUES to any RedisAI.

    Nested lists, bools and numpy's scalars are no words, and RedisAI itself takes neither negative integers nor NaN nor
    empty strings as such. Other words that do not fit the type are left to the server, which says so.
    """
    if not all(type(value) in (int, float, str, bytes) for value in values):
        return True
    if dtype is DType.STRING:
        return any(value in ("", b"") for value in values)
    if dtype.is_float:
        return any(value != value for value in values)
    return any(type(value) is int and value < 0 for value in values)


def elements_of(values: Sequence[Any], dtype: DType) -> Tensor:
    """The tensor of a list, nested or not.

    Raises: TypeError: fractions for an integer type.   ValueError, OverflowError: numpy's, if the elements do not make
            an array of that type.
    """
    if dtype is DType.STRING:
        array = np.array(values, dtype=object)
        texts = [value if _is_text(value) else str(value) for value in array.flat]
        return Tensor(dtype, array.shape, b"".join(_encode(text) + b"\0" for text in texts))
    # As objects, since numpy makes floats of integers that no one type of its own holds.
    integers = dtype.is_float or all(map(_is_integer, np.array(values, dtype=object).flat))
    if not integers:
        raise TypeError(f"elements of a tensor of type {dtype.name} must be integers")
    with np.errstate(over="ignore"):  # 1e39 as FLOAT is inf, as the server has it
        return Tensor.from_numpy(np.array(values, dtype=dtype.numpy_dtype))


def _encode(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def tensor_from(tensor: Any, shape: Sequence[int] | None, dtype: Any) -> Tensor:
    """The tensor that `tensorset` is given, as data."""
    if not isinstance(tensor, (list, tuple)):
        return tensor_of(tensor)
    value = elements_of(tensor, dtype_of(dtype))
    return value if shape is None else Tensor(value.dtype, dims_of(shape), value.data)


def dims_of(shape: Iterable[Any]) -> tuple[int, ...]:
    """The shape without numpy's integers, which redis-py does not send. Raises: TypeError: it has no sizes."""
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"shape must be a list of sizes such as [2, 3], not {shape!r}")
    return tuple(int(size) if isinstance(size, np.integer) else size for size in shape)


def array_of(dtype: DType, shape: Sequence[int], data: Buffer, encoding: str = "utf-8") -> NDArray[Any]:
    """The array of a tensor's reply: a read-only view of `data`; STRING gives an array of str."""
    if dtype is DType.STRING:
        elements = bytes(data).split(b"\0")[:-1]
        return np.array([element.decode(encoding) for element in elements], dtype=np.str_).reshape(shape)
    array = np.frombuffer(data, dtype.numpy_dtype)
    array.flags.writeable = False
    return array.reshape(shape)
