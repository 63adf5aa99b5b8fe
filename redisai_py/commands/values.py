"""Elements given as words (`VALUES v ...`) and checks of blobs: from words to little-endian data.

Long lists are parsed together: a few passes at C speed check the grammar of the joined words, then each word is
converted. Source: AI.TENSORSET; negative integers and FLOAT16, BFLOAT16, UINT32 and UINT64 are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.commands._args import double, to_bytes
from redisai_py.errors import CommandError
from redisai_py.tensor import Buffer, DType

__all__ = ["check_blob", "parse_values"]

_INVALID_VALUE = "ERR invalid value"
_INNER_NUL = "ERR C-string value contains null character"
_BLOB_LENGTH = "ERR data length does not match tensor shape and type"
_BLOB_BOOL = "ERR BOOL tensor elements must be 0 or 1"
_BLOB_STRINGS = "ERR Number of string elements in data blob does not match tensor length"

_DECIMAL_BYTES = b"0123456789+-.eE "
_INTEGER_BYTES = b"0123456789- "
_ZEROS = frozenset({b"0", b"0.0", b"-0", b"-0.0"})


def parse_values(dtype: DType, words: Sequence[Buffer]) -> bytes:
    """The data of a tensor with these elements, in C order.

    Args:    words: n >= 1 elements.
    Returns: n * itemsize bytes; for STRING each element followed by a NUL.
    Raises:  CommandError `ERR invalid value`; for STRING `ERR C-string value contains null character`.
    """
    if not words:
        return b""  # a dimension is 0
    if dtype is DType.STRING:
        return _parse_strings(words)
    if dtype.is_float:
        # RedisAI casts without an overflow check: 1e39 as FLOAT is inf.
        with np.errstate(over="ignore"):
            return _parse_doubles(words).astype(dtype.numpy_dtype).tobytes()
    return _parse_integers(dtype, words)


def check_blob(dtype: DType, size: int, data: Buffer) -> None:
    """Check that `data` holds `size` elements.

    Raises: CommandError: wrong length, a BOOL byte above 1, or a wrong number of NUL-terminated strings.
    """
    if dtype is DType.STRING:
        elements = np.frombuffer(data, np.uint8)
        ends = not len(elements) or not elements[-1]
        if not ends or len(elements) - np.count_nonzero(elements) != size:
            raise CommandError(_BLOB_STRINGS)
        return
    if len(data) != size * dtype.itemsize:
        raise CommandError(_BLOB_LENGTH)
    if dtype is DType.BOOL and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise CommandError(_BLOB_BOOL)


def _parse_strings(words: Sequence[Buffer]) -> bytes:
    elements = [bytes(word) for word in words]
    data = b"\0".join([e[:-1] if e[-1:] == b"\0" else e for e in elements]) + b"\0"
    if data.count(b"\0") != len(elements):
        raise CommandError(_INNER_NUL)
    return data


def _parse_doubles(words: Sequence[Buffer]) -> NDArray[np.float64]:
    joined = b" ".join(words)
    if joined.translate(None, _DECIMAL_BYTES) or joined.count(b" ") != len(words) - 1:
        return _parse_exactly(words)
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise CommandError(_INVALID_VALUE) from None
    # float() returns inf where strtod overflows, and 0 where it underflows, so zeros are checked again.
    if not np.isfinite(values).all():
        raise CommandError(_INVALID_VALUE)
    zeros = [to_bytes(words[index]) for index in np.flatnonzero(values == 0).tolist()]
    if any(word not in _ZEROS and double(word) is None for word in zeros):
        raise CommandError(_INVALID_VALUE)
    return values


def _parse_exactly(words: Sequence[Buffer]) -> NDArray[np.float64]:
    values = [double(word) for word in words]
    if None in values:
        raise CommandError(_INVALID_VALUE)
    return np.array(values, dtype=np.float64)


def _parse_integers(dtype: DType, words: Sequence[Buffer]) -> bytes:
    # Two blanks between words, so that count() finds each " 0 " separately.
    joined = b" " + b"  ".join(words) + b" "
    strict = (
        not joined.translate(None, _INTEGER_BYTES)
        and joined.count(b" ") == 2 * len(words)
        and joined.count(b" 0") == joined.count(b" 0 ")
        and b"-0" not in joined
    )
    if not strict:
        raise CommandError(_INVALID_VALUE)
    low, high = _integer_range(dtype)
    try:
        values = np.array([int(word) for word in words], dtype=np.uint64 if dtype is DType.UINT64 else np.int64)
    except (ValueError, OverflowError):
        raise CommandError(_INVALID_VALUE) from None
    if values.min() < low or values.max() > high:
        raise CommandError(_INVALID_VALUE)
    return values.astype(dtype.numpy_dtype).tobytes()


def _integer_range(dtype: DType) -> tuple[int, int]:
    if dtype is DType.BOOL:
        return 0, 1
    limits: Any = np.iinfo(dtype.numpy_dtype)
    return int(limits.min), int(limits.max)
