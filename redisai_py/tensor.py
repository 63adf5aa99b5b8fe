"""Values: dtypes, devices, and the immutable tensor that all other modules use.

Source of names and element layouts: RedisAI's tensor commands; FLOAT16, BFLOAT16, UINT32 and UINT64 are our own. Data
is little-endian and in C order. The only third-party imports are numpy and ml_dtypes (for bfloat16).
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from redisai_py.errors import CommandError, ShapeMismatch

__all__ = ["MAX_RANK", "Buffer", "DType", "Device", "Tensor", "is_shape"]

MAX_RANK = 64
"""Maximum number of dimensions: numpy's limit, so that every stored tensor can be run."""

MAX_ARRAY_BYTES = 2**63 - 1
"""Maximum size of an array in bytes, ignoring dimensions of 0: numpy's limit, also for arrays without elements."""

Buffer = bytes | bytearray | memoryview


class DType(enum.Enum):
    """Dtypes; the value is (bytes per element, safetensors name, numpy dtype).

    All other tables of dtypes derive from this one: the clients' names, torch's and ONNX's dtypes, grammars of values.
    is_float: floating point.   is_string: STRING; faster than comparing members.   is_numpys_own: numpy has the
    dtype without ml_dtypes, so other packages support it too.
    """

    FLOAT = (4, "F32", np.dtype("<f4"))
    DOUBLE = (8, "F64", np.dtype("<f8"))
    INT8 = (1, "I8", np.dtype("i1"))
    INT16 = (2, "I16", np.dtype("<i2"))
    INT32 = (4, "I32", np.dtype("<i4"))
    INT64 = (8, "I64", np.dtype("<i8"))
    UINT8 = (1, "U8", np.dtype("u1"))
    UINT16 = (2, "U16", np.dtype("<u2"))
    BOOL = (1, "BOOL", np.dtype("?"))
    STRING = (0, "U8", np.dtype(object))
    FLOAT16 = (2, "F16", np.dtype("<f2"))
    BFLOAT16 = (2, "BF16", np.dtype(ml_dtypes.bfloat16))
    UINT32 = (4, "U32", np.dtype("<u4"))
    UINT64 = (8, "U64", np.dtype("<u8"))

    # Enum members are hashed in Python code by default; these are keys of hot dictionaries.
    __hash__ = object.__hash__

    def __init__(self, itemsize: int, safetensors_name: str, numpy_dtype: np.dtype[Any]) -> None:
        self.itemsize = itemsize
        self.safetensors_name = safetensors_name
        self.numpy_dtype = numpy_dtype
        self.is_numpys_own = numpy_dtype.isbuiltin == 1
        self.is_float = "float" in numpy_dtype.name
        self.is_string = numpy_dtype.hasobject

    @property
    def wire_name(self) -> bytes:
        """Upper-case name as the protocol shows it."""
        return self.name.encode()

    @classmethod
    def from_wire(cls, word: Buffer) -> DType | None:
        """The dtype named by `word` in any case, or None."""
        if len(word) > _LONGEST_WIRE_NAME:
            return None
        name = bytes(word)
        return _BY_WIRE_NAME.get(name) or _BY_WIRE_NAME.get(name.upper())

    @classmethod
    def from_safetensors(cls, name: str) -> DType | None:
        """The dtype of a safetensors name (`F32`); never STRING, which needs metadata."""
        return _BY_SAFETENSORS_NAME.get(name)

    @classmethod
    def from_numpy(cls, dtype: np.dtype[Any]) -> DType | None:
        """The dtype for a numpy dtype of any byte order, or None."""
        if dtype.kind in "OSU" or dtype.kind == "T":
            return cls.STRING
        return _BY_NUMPY.get(dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype)


_BY_WIRE_NAME = {dtype.name.encode(): dtype for dtype in DType}
_LONGEST_WIRE_NAME = max(map(len, _BY_WIRE_NAME))
_BY_SAFETENSORS_NAME = {dtype.safetensors_name: dtype for dtype in DType if dtype is not DType.STRING}
_BY_NUMPY = {dtype.numpy_dtype: dtype for dtype in DType if dtype is not DType.STRING}

_DEVICE = re.compile(rb"(CPU|GPU)(?::(\d*))?\Z", re.IGNORECASE)
_MAX_DEVICE_LENGTH = 9
_MAX_LOOSE_DEVICE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs: `kind` is CPU or GPU, `index` None for the default one, `text` as the user typed it."""

    kind: str
    index: int | None
    text: str

    @property
    def queue(self) -> str:
        """Name of the run queue: the upper-cased device string (`CPU`, `CPU:0` and `CPU:1` are three queues)."""
        return self.text.upper()

    @classmethod
    def parse(cls, word: bytes) -> Device:
        """`CPU`, `GPU`, `CPU:n`, `GPU:n` in any case, at most 9 characters.

        Raises: CommandError `ERR Invalid DEVICE`.   Source: AI.MODELSTORE.
        """
        match = _DEVICE.match(word) if len(word) <= _MAX_DEVICE_LENGTH else None
        if match is None:
            raise CommandError("ERR Invalid DEVICE")
        index = int(match[2]) if match[2] else None
        return cls(match[1].decode().upper(), index, word.decode())

    @classmethod
    def parse_loosely(cls, word: Buffer, error: str) -> Device:
        """A device of AI.MODELSET and the script commands: anything starting with CPU, or `GPU`, or `GPU:n`, in any
        case.

        Raises: CommandError with the text `error`.
        """
        if len(word) > _MAX_LOOSE_DEVICE_LENGTH:
            raise CommandError(error)
        try:
            text = bytes(word).decode()
        except UnicodeDecodeError:
            raise CommandError(error) from None
        name, _, number = text.upper().partition(":")
        index = int(number) if number.isascii() and number.isdigit() and len(number) <= 5 else None
        if name.startswith("CPU"):
            return cls("CPU", index if name == "CPU" else None, text)
        if name == "GPU" and (index is not None or ":" not in text):
            return cls("GPU", index, text)
        raise CommandError(error)


def is_shape(dims: object, dtype: DType) -> TypeGuard[list[int]]:
    """Whether a value, of any type, is a valid list of dimensions.

    At most MAX_RANK integers of 0 or more. The product of the nonzero ones is at most MAX_ARRAY_BYTES bytes: numpy
    refuses an array of shape (2**62, 0) although it has no elements.
    """
    if type(dims) is not list or len(dims) > MAX_RANK:
        return False
    size_bytes = dtype.numpy_dtype.itemsize
    for dim in dims:
        if type(dim) is not int or dim < 0:
            return False
        size_bytes *= dim or 1
        if size_bytes > MAX_ARRAY_BYTES:
            return False
    return True


@dataclass(slots=True, eq=False, repr=False)
class Tensor:
    """An immutable dense tensor in C order.

    dtype: element type.   shape: dimensions, () for a scalar.
    data:  little-endian elements; for STRING each element followed by a NUL.
    """

    dtype: DType
    shape: tuple[int, ...]
    data: Buffer
    array: NDArray[Any] | None = field(default=None, init=False)
    """What `numpy` returns, once `keep_array` was called."""

    def __repr__(self) -> str:
        return f"Tensor({self.dtype.name}, {self.shape}, {len(self.data)} bytes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.dtype, self.shape, bytes(self.data)) == (other.dtype, other.shape, bytes(other.data))

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, bytes(self.data)))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def numpy(self) -> NDArray[Any]:
        """The tensor as an array of its shape: a read-only view without a copy; for STRING an object array of bytes."""
        if self.array is not None:
            return self.array
        data, dtype = self.data, self.dtype
        if dtype.is_string:
            return _strings(bytes(data), self.size).reshape(self.shape)
        array = np.frombuffer(data, dtype.numpy_dtype).reshape(self.shape)
        if type(data) is not bytes:  # an array of bytes is read-only already
            array.flags.writeable = False
        return array

    def keep_array(self) -> None:
        """Create and cache the array of `numpy`, for a tensor that will be the input of many runs."""
        if self.array is None:
            self.array = self.numpy()

    @classmethod
    def from_numpy(cls, array: NDArray[Any]) -> Tensor:
        """The tensor of an array; no copy if it is C-contiguous, little-endian and numeric.

        Raises: ShapeMismatch if there is no DType for its elements (complex, datetime ...).
        """
        dtype = DType.from_numpy(array.dtype)
        if dtype is None:
            raise ShapeMismatch(f"ERR unsupported dtype {array.dtype}")
        if dtype.is_string:
            return cls(dtype, array.shape, _join_strings(array.ravel().tolist()))
        contiguous = np.ascontiguousarray(array, dtype.numpy_dtype)
        # A view of bytes also works for bfloat16, which the buffer protocol lacks.
        data = contiguous.reshape(-1).view(np.uint8).data
        return cls(dtype, array.shape, data)


_PIECE_BYTES = 64 * 1024
"""Strings split per step, so that a thread that splits millions lets the event loop run in between."""


def _strings(data: bytes, size: int) -> NDArray[Any]:
    """The elements of a STRING tensor's data; each ends with a NUL."""
    array = np.empty(size, dtype=object)
    if len(data) <= _PIECE_BYTES:
        array[:] = data.split(b"\0")[:size]
        return array
    at = start = 0
    while at < size:
        end = data.rfind(b"\0", start, start + _PIECE_BYTES)
        if end < 0:
            end = data.index(b"\0", start)
        piece = data[start:end].split(b"\0")
        array[at : at + len(piece)] = piece
        at, start = at + len(piece), end + 1
    return array


def _join_strings(elements: Sequence[str | bytes]) -> bytes:
    return b"".join((e.encode() if isinstance(e, str) else bytes(e)) + b"\0" for e in elements)
