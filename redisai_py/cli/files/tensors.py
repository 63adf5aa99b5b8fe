"""Tensor files: `.npy`, `.safetensors` and images, recognised by suffix."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.cli.failures import UsageError
from redisai_py.cli.files.images import SUFFIXES, read_image, write_image
from redisai_py.cli.files.models import check_directory, write_file
from redisai_py.client.arrays import array_of, dtype_of, tensor_of
from redisai_py.store.codec import encode_header
from redisai_py.tensor import DType

__all__ = ["check_target", "check_writable", "converted", "read_tensor", "write_tensor"]

_KINDS = f".npy, .safetensors or an image ({' '.join(SUFFIXES)})"


def read_tensor(
    path: Path,
    *,
    name: str | None = None,
    dtype: str | None = None,
    size: str | None = None,
    layout: str | None = None,
) -> NDArray[Any]:
    """The tensor in a file.

    Args:    name: of the tensor, in a safetensors file with several.   dtype: to convert its elements to.
             size, layout: of an image, see `images.read_image`.
    Returns: an array; for a `.npy` file a memory map.
    Raises:  UsageError: the file holds no such tensor, or an option does not apply.   OSError.
    """
    suffix = path.suffix.lower()
    is_image = suffix in SUFFIXES
    if not is_image and (size is not None or layout is not None):
        raise UsageError(f"{path}: --size and --layout are for images")
    if name is not None and suffix != ".safetensors":
        raise UsageError(f"{path}: only a .safetensors file has tensors with names")
    if is_image:
        array = read_image(path, size, layout)
    elif suffix == ".npy":
        array = _read_npy(path)
    elif suffix == ".safetensors":
        array = _read_safetensors(path, name)
    else:
        raise UsageError(f"{path}: a tensor's file is {_KINDS}")
    if array.size == 0:
        raise UsageError(f"{path}: the tensor has no elements, its shape is {list(array.shape)}")
    if dtype is not None:
        return converted(array, dtype, str(path))
    if DType.from_numpy(array.dtype) is None:
        raise UsageError(f"{path}: no tensor has elements of type {array.dtype}; --dtype converts them")
    return array


def _read_npy(path: Path) -> NDArray[Any]:
    magic = np.lib.format.MAGIC_PREFIX
    with path.open("rb") as file:
        if file.read(len(magic)) != magic:
            raise UsageError(f"{path}: this is not an .npy file")
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, EOFError) as error:
        if "Python objects" in str(error):
            raise UsageError(f"{path}: an array of pickled objects is not a tensor") from error
        raise UsageError(f"{path}: {error}") from error


def _read_safetensors(path: Path, name: str | None) -> NDArray[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            found = sorted(file.keys())
            if name is None and len(found) != 1:
                raise UsageError(f"{path}: --name must name one of its tensors: {', '.join(found) or 'there is none'}")
            if name is not None and name not in found:
                raise UsageError(f"{path}: there is no tensor {name!r}, only {', '.join(found)}")
            array: NDArray[Any] = file.get_tensor(name or found[0])
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: {error}") from error
    if metadata.get("dtype") == DType.STRING.name and len(found) == 1:
        return array_of(DType.STRING, json.loads(metadata["shape"]), array.tobytes())
    return array


def converted(array: NDArray[Any], dtype: str, what: str) -> NDArray[Any]:
    """The array, converted to another type.

    Raises: UsageError: unknown type, or an integer type that would change the values.
    """
    try:
        kind = dtype_of(dtype)
    except TypeError as error:
        raise UsageError(f"--dtype {dtype}: no tensor has such elements") from error
    if kind is DType.STRING:
        return array.astype(np.str_)
    try:
        with np.errstate(all="ignore"):
            result = array.astype(kind.numpy_dtype)
            exact = kind.numpy_dtype.kind not in "iub" or bool((result == array).all())
    except (ValueError, TypeError) as error:
        raise UsageError(f"{what}: {error}") from error
    if not exact:
        raise UsageError(f"{what}: {kind.name} cannot hold these values, of type {array.dtype}")
    return result


def check_writable(path: Path) -> None:
    """Check that a tensor can be written to this file name, before any work is done. Raises: UsageError."""
    if path.suffix.lower() not in (".npy", ".safetensors", *SUFFIXES):
        raise UsageError(f"{path}: a tensor's file is {_KINDS}")
    check_directory(path)


def check_target(path: Path | None, layout: str | None) -> None:
    """Check that a tensor can be written there (None: the terminal) in a layout. Raises: UsageError."""
    if path is not None:
        check_writable(path)
    if layout is not None and (path is None or path.suffix.lower() not in SUFFIXES):
        raise UsageError(f"{path or 'the terminal'}: --layout is for images")


def write_tensor(path: Path, array: NDArray[Any], layout: str | None = None) -> None:
    """Write a tensor in the format of the suffix. Raises: UsageError: the format cannot hold it.   OSError."""
    check_target(path, layout)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        write_file(path, write_image(path, array, layout))
    elif suffix == ".npy":
        if array.dtype.isbuiltin == 2:  # registered with numpy by ml_dtypes
            raise UsageError(f"{path}: .npy has no {array.dtype.name}; use .safetensors, or convert with --dtype float")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        write_file(path, header.getvalue(), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    else:
        tensor = tensor_of(array)
        write_file(path, encode_header(tensor), memoryview(tensor.data))
