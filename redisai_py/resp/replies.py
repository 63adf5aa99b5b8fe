"""Reply values to bytes, for RESP2 and RESP3.

A reply is a tree of plain Python values:

| value | RESP2 | RESP3 |
|---|---|---|
| `Simple` | simple string | the same |
| `bytes`, `memoryview`, `bytearray` | bulk string | the same |
| `int` within int64 | integer | the same |
| `int` beyond int64, `BigNumber` | bulk string | big number |
| `Double` | bulk string, C's `%.17g` | double |
| `None` | null bulk string | null |
| `list`, `tuple` | array | the same |
| `SetOf` | array | set |
| `dict` | flat array of keys and values | map |
| `RedisAIError` | error | the same |
| `TensorReply`, `Values` | AI.TENSORGET's reply, its elements | the same, with native doubles |

Large buffers become separate segments, which are never copied or joined; everything between them is joined. This module
does not know what commands mean. Source: the RESP specification; AI.TENSORGET for number formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.bounded import BoundedCache
from redisai_py.errors import RedisAIError
from redisai_py.tensor import Buffer, DType

__all__ = [
    "LARGE_SEGMENT",
    "NA",
    "OK",
    "QUEUED",
    "TIMEDOUT",
    "BigNumber",
    "Double",
    "Reply",
    "SetOf",
    "Simple",
    "TensorReply",
    "Values",
    "encode_reply",
    "takes_long",
    "tensor_head",
]

LARGE_SEGMENT = 16 * 1024
"""Buffers of at least this many bytes are not joined, because a copy would cost more than a segment."""

_VALUES_PER_SEGMENT = 4096  # formatted in one step, which holds the GIL for about 2 ms
_MANY_VALUES = 8192  # formatting them takes about 4 ms
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_CRLF = b"\r\n"
_FLAT = frozenset({bytes, memoryview})


class Simple(bytes):
    """A simple string: one line, no CR or LF."""

    __slots__ = ()


class Double(float):
    """A floating-point number."""

    __slots__ = ()


class BigNumber(int):
    """An integer shown as a big number in RESP3 and as a bulk string in RESP2."""

    __slots__ = ()


class SetOf(tuple[Any, ...]):
    """Distinct values without order."""

    __slots__ = ()


OK = Simple(b"OK")
NA = Simple(b"NA")
_OK_LINE = b"+OK\r\n"
QUEUED = Simple(b"QUEUED")
TIMEDOUT = Simple(b"TIMEDOUT")


class Values:
    """The elements of a tensor, one reply value each.

    dtype, shape, data: as in `Tensor`. UINT64 beyond 2^63-1 are big numbers (bulk strings in RESP2).
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...], data: Buffer) -> None:
        self.dtype = dtype
        self.shape = shape
        self.data = data


class TensorReply:
    """AI.TENSORGET's reply: dtype and shape if `meta`, then `content`: the data, its Values, or None for neither."""

    __slots__ = ("content", "dtype", "meta", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...], meta: bool, content: Buffer | Values | None) -> None:
        self.dtype = dtype
        self.shape = shape
        self.meta = meta
        self.content = content


Reply = Any
"""A reply value; the table above is its type."""


def encode_reply(value: Reply, protocol: int) -> list[Buffer]:
    """The bytes of a reply, in segments to be written one after the other.

    Args:    protocol: 2 or 3.
    Raises:  TypeError: a value that is not in the table.
    Copies:  small parts are joined; buffers of 16 KiB and more are not.
    """
    kind = type(value)
    if kind is Simple:
        return [b"+%b\r\n" % value]
    if kind is TensorReply:
        content: Any = value.content
        if type(content) in _FLAT and len(content) < LARGE_SEGMENT:
            if value.meta:
                return [b"%b$%d\r\n%b\r\n" % (_meta_head(value, b"blob"), len(content), content)]
            return [b"$%d\r\n%b\r\n" % (len(content), content)]
    elif kind is list and (joined := _join_plain(value)) is not None:
        return [joined]
    out: list[Buffer] = []
    _append(out, value, protocol)
    return _join_small(out)


def _join_plain(items: list[Reply]) -> bytes | None:
    """An array of OKs and small blobs, the usual answer of a DAG; None for anything else."""
    parts = [b"*%d\r\n" % len(items)]
    for item in items:
        if item is OK:
            parts.append(_OK_LINE)
            continue
        content: Any = item.content if type(item) is TensorReply and not item.meta else None
        if type(content) not in _FLAT or len(content) >= LARGE_SEGMENT:
            return None
        parts.append(b"$%d\r\n%b\r\n" % (len(content), content))
    return b"".join(parts)


def tensor_head(value: TensorReply, size: int) -> bytes:
    """The bytes before a tensor's blob of `size` bytes, which is sent separately."""
    return b"%b$%d\r\n" % (_meta_head(value, b"blob") if value.meta else b"", size)


def takes_long(value: Reply) -> bool:
    """Whether a reply has so many numbers to format that this should happen off the event loop."""
    if type(value) is TensorReply:
        return type(value.content) is Values and math.prod(value.shape) > _MANY_VALUES
    if type(value) is list:
        for item in value:
            kind = type(item)
            if (kind is TensorReply or kind is list) and takes_long(item):
                return True
    return False


def _join_small(parts: list[Buffer]) -> list[Buffer]:
    segments: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < LARGE_SEGMENT:
            small.append(part)
            continue
        if small:
            segments.append(b"".join(small))
            small = []
        segments.append(part)
    if small:
        segments.append(b"".join(small))
    return segments


def _append(out: list[Buffer], value: Reply, protocol: int) -> None:
    append = _APPENDERS.get(type(value))
    if append is None:
        if not isinstance(value, RedisAIError):
            raise TypeError(f"{type(value).__name__} is not a reply value")
        append = _append_error
    append(out, value, protocol)


def _append_simple(out: list[Buffer], value: bytes, protocol: int) -> None:
    out.append(b"+%b\r\n" % value)


def _append_error(out: list[Buffer], value: RedisAIError, protocol: int) -> None:
    out.append(b"-%b\r\n" % value.wire().encode("utf-8", "surrogateescape"))


def _append_bulk(out: list[Buffer], value: Any, protocol: int) -> None:
    if len(value) < LARGE_SEGMENT:
        out.append(b"$%d\r\n%b\r\n" % (len(value), value))
    else:
        out += (b"$%d\r\n" % len(value), value, _CRLF)


def _append_int(out: list[Buffer], value: int, protocol: int) -> None:
    if _INT64_MIN <= value <= _INT64_MAX:
        out.append(b":%d\r\n" % value)
    else:
        _append_big_number(out, value, protocol)


def _append_big_number(out: list[Buffer], value: int, protocol: int) -> None:
    if protocol >= 3:
        out.append(b"(%d\r\n" % value)
    else:
        _append_bulk(out, b"%d" % value, protocol)


def _append_double(out: list[Buffer], value: float, protocol: int) -> None:
    if protocol >= 3:
        out.append(b",%b\r\n" % _format_double(value).removeprefix(b"-" if math.isnan(value) else b""))
    else:
        _append_bulk(out, _format_double(value), protocol)


def _format_double(value: float) -> bytes:
    """C's `%.17g`, which unlike Python's shows the sign of a NaN."""
    if math.isnan(value):
        return b"-nan" if math.copysign(1.0, value) < 0 else b"nan"
    return b"%.17g" % value


def _append_none(out: list[Buffer], value: None, protocol: int) -> None:
    out.append(b"_\r\n" if protocol >= 3 else b"$-1\r\n")


def _append_array(out: list[Buffer], value: list[Any] | tuple[Any, ...], protocol: int) -> None:
    out.append(b"*%d\r\n" % len(value))
    for item in value:
        _append(out, item, protocol)


def _append_set(out: list[Buffer], value: SetOf, protocol: int) -> None:
    out.append(b"%b%d\r\n" % (b"~" if protocol >= 3 else b"*", len(value)))
    for item in value:
        _append(out, item, protocol)


def _append_dict(out: list[Buffer], value: dict[Any, Any], protocol: int) -> None:
    out.append(b"%%%d\r\n" % len(value) if protocol >= 3 else b"*%d\r\n" % (2 * len(value)))
    for key, item in value.items():
        _append(out, key, protocol)
        _append(out, item, protocol)


# (dtype, shape, name of the last field) -> a META reply up to the last field's value.
_META_HEADS: BoundedCache[tuple[DType, tuple[int, ...], bytes], bytes] = BoundedCache(4096)


def _meta_head(value: TensorReply, field: bytes) -> bytes:
    key = (value.dtype, value.shape, field)
    head = _META_HEADS.get(key)
    if head is None:
        dims = b"".join(b":%d\r\n" % dim for dim in value.shape)
        name = value.dtype.wire_name
        tail = b"$%d\r\n%b\r\n" % (len(field), field) if field else b""
        head = b"*%d\r\n$5\r\ndtype\r\n$%d\r\n%b\r\n$5\r\nshape\r\n*%d\r\n%b%b" % (
            6 if field else 4, len(name), name, len(value.shape), dims, tail
        )  # fmt: skip
        _META_HEADS.keep(key, head)
    return head


def _append_tensor(out: list[Buffer], value: TensorReply, protocol: int) -> None:
    content = value.content
    if value.meta:
        out.append(_meta_head(value, b"" if content is None else b"values" if type(content) is Values else b"blob"))
    if content is not None:
        _append(out, content, protocol)


def _append_values(out: list[Buffer], value: Values, protocol: int) -> None:
    if value.dtype.is_string:
        strings = bytes(value.data).split(b"\0")[:-1]
        out.append(b"*%d\r\n" % len(strings))
        out += [b"$%d\r\n%b\r\n" % (len(string), string) for string in strings]
        return
    elements: NDArray[Any] = np.frombuffer(value.data, value.dtype.numpy_dtype)
    out.append(b"*%d\r\n" % len(elements))
    if value.dtype.is_float:
        encode = _encode_doubles3 if protocol >= 3 else _encode_doubles2
    elif value.dtype is DType.UINT64 and len(elements) and elements.max() > _INT64_MAX:
        _append_uint64(out, elements.tolist(), protocol)
        return
    else:
        encode = _encode_integers
    for start in range(0, len(elements), _VALUES_PER_SEGMENT):
        out.append(encode(elements[start : start + _VALUES_PER_SEGMENT]))


def _append_uint64(out: list[Buffer], elements: list[int], protocol: int) -> None:
    for element in elements:
        _append_int(out, element, protocol)


def _encode_integers(elements: Any) -> bytes:
    """Format all of them in one operation; `%d` shows a bool as 0 or 1."""
    return (":%d\r\n" * len(elements) % tuple(elements.tolist())).encode("ascii")


def _encode_doubles3(elements: Any) -> bytes:
    # Python's %g writes inf, -inf and nan as RESP3 does.
    return (",%.17g\r\n" * len(elements) % tuple(elements.tolist())).encode("ascii")


def _encode_doubles2(elements: Any) -> bytes:
    texts = ("%.17g " * len(elements) % tuple(elements.tolist())).split()
    for index in np.flatnonzero(np.isnan(elements) & np.signbit(elements)).tolist():
        texts[index] = "-nan"
    return "".join([_BULK_HEADS[len(text)] + text + "\r\n" for text in texts]).encode("ascii")


# The longest double is -1.7976931348623157e+308.
_BULK_HEADS = [f"${length}\r\n" for length in range(32)]


_APPENDERS: dict[type, Callable[[list[Buffer], Any, int], None]] = {
    Simple: _append_simple,
    bytes: _append_bulk,
    bytearray: _append_bulk,
    memoryview: _append_bulk,
    int: _append_int,
    BigNumber: _append_big_number,
    Double: _append_double,
    type(None): _append_none,
    list: _append_array,
    tuple: _append_array,
    SetOf: _append_set,
    dict: _append_dict,
    TensorReply: _append_tensor,
    Values: _append_values,
}
