"""Tensor calls for Redis itself: arguments and results as in `calls`, with GET and SET of safetensors strings.

They run at Redis's own speed and check no types: SET replaces any value of the key, even a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.client.arrays import array_of, tensor_from
from redisai_py.client.call import Call, Key, text
from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey
from redisai_py.store.codec import MAX_HEADER, decode_tensor, encode_header, header_size, read_header
from redisai_py.tensor import DType, Tensor

__all__ = ["tensorget", "tensorset"]


def tensorset(key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Call[str]:
    """SET a safetensors string. Raises: see `calls.tensorset`. Copies: none of an array's data."""
    value = tensor_from(tensor, shape, dtype)
    _check_size(value)
    return Call(["SET", key, (encode_header(value), value.data)], text, direct=True)


def _check_size(tensor: Tensor) -> None:
    """Make the checks of the server, which is not involved here."""
    if min(tensor.shape, default=1) < 1:
        raise ValueError(f"no dimension of a tensor may be below 1, but the shape is {tensor.shape}")
    elements = bytes(tensor.data).count(b"\0") if tensor.dtype is DType.STRING else -1
    if elements not in (-1, tensor.size) or (elements < 0 and len(tensor.data) != tensor.size * tensor.dtype.itemsize):
        raise ValueError(f"the elements given do not make a tensor of shape {tensor.shape}")


def tensorget(key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False) -> Call[Any]:
    """GET a safetensors string, or only its header if `meta_only`; results as for `calls.tensorget`."""
    if meta_only:
        return Call(["GETRANGE", key, 0, MAX_HEADER + 7], _existing(_meta), direct=True)
    if not as_numpy:
        return Call(["GET", key], _existing(_values), direct=True)
    return Call(["GET", key], _existing(_mutable_array if as_numpy_mutable else _array), direct=True)


def _existing(decode: Callable[[bytes], Any]) -> Callable[[bytes | None], Any]:
    def decode_existing(reply: bytes | None) -> Any:
        if not reply:
            raise MissingKey(TENSOR_KEY_EMPTY.removeprefix("ERR "))
        return decode(reply)

    return decode_existing


def _meta(value: bytes) -> dict[str, Any]:
    dtype, shape, _ = read_header(value[: header_size(value)])
    return {"dtype": dtype.name, "shape": list(shape)}


def _array(value: bytes) -> Any:
    tensor = decode_tensor(value)
    return array_of(tensor.dtype, tensor.shape, tensor.data)


def _mutable_array(value: bytes) -> Any:
    return _array(value).copy()


def _values(value: bytes) -> dict[str, Any]:
    tensor = decode_tensor(value)
    array = array_of(tensor.dtype, tensor.shape, tensor.data).reshape(-1)
    convert = str if tensor.dtype is DType.STRING else float if tensor.dtype.is_float else int
    return {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "values": [convert(v) for v in array.tolist()]}
