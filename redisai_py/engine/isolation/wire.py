"""The protocol between the server and an engine process: fixed frames, and headers that describe tensors. Pure.

A frame is 24 bytes on a socket; it announces a message in the memory that both map. A message is a header and, from the
next multiple of 64 bytes on, the data of its tensors, each at a multiple of 64 bytes. The header of a run has one
record per tensor; the headers of loads and failures, which are rare, are JSON. An engine process runs users' models,
and one may have taken it over: the server checks every number that it reads here (`ProtocolError`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from redisai_py.errors import ProtocolError
from redisai_py.tensor import MAX_RANK, DType, is_shape

__all__ = [
    "FRAME",
    "KEEP",
    "LARGE",
    "NONE",
    "ON_DEVICE",
    "Frame",
    "Layout",
    "Op",
    "Part",
    "aligned",
    "code_of",
    "dtype_of",
    "layout",
    "parse_header",
]

FRAME = struct.Struct("<BBHIQQ")
"""op, flags, 0, bytes of the header, number, bytes of the message."""
_RECORD = struct.Struct("<BB6xQ")
"""code of the dtype, number of dimensions, bytes of data; the dimensions follow, 8 bytes each."""
_ALIGNMENT = 64
_MOST_PARTS = 1 << 20

NONE = 254
"""Code of an output that is not a tensor."""
ON_DEVICE = 253
"""Code of a value that stays in the process; its first dimension is its number there."""
_DTYPES = tuple(DType)
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}


class Op:
    """Requests and answers of frames. `number` is that of the model, except where noted."""

    RUN = 1
    """Header: the inputs. Flag KEEP: outputs may stay on the device."""
    LOAD = 2
    """Header: JSON; the blob's file comes with the frame."""
    CLOSE = 3
    FETCH = 4
    """number: of a value on the device."""
    DROP = 5
    """number: of a value on the device."""
    DONE = 10
    """Header: the outputs. number: nanoseconds in the framework."""
    LOADED = 11
    """Header: JSON, the session's description."""
    FAILED = 12
    """Header: JSON: class and text of the error. number: nanoseconds in the framework."""


LARGE = 1
"""Flag: the message is in a separate file, which comes with the frame."""
KEEP = 2


class Frame(NamedTuple):
    """See FRAME."""

    op: int
    flags: int
    header_bytes: int
    number: int
    total_bytes: int

    def pack(self) -> bytes:
        """The bytes to send."""
        return FRAME.pack(self.op, self.flags, 0, self.header_bytes, self.number, self.total_bytes)

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        """Parse a frame. Raises: ProtocolError."""
        if len(data) != FRAME.size:
            raise ProtocolError(f"ERR an engine process sent {len(data)} bytes instead of a frame")
        op, flags, _, header_bytes, number, total_bytes = FRAME.unpack(data)
        if header_bytes > total_bytes:
            raise ProtocolError("ERR an engine process sent a malformed frame")
        return cls(op, flags, header_bytes, number, total_bytes)


class Part(NamedTuple):
    """One tensor of a message. code: of its dtype, NONE or ON_DEVICE.   offset: of its data in the message."""

    code: int
    shape: tuple[int, ...]
    nbytes: int
    offset: int = 0


class Layout(NamedTuple):
    """A header, and the positions of its tensors' data. total: bytes of the whole message."""

    header: bytes
    offsets: tuple[int, ...]
    total: int


def code_of(dtype: DType) -> int:
    """The code of a dtype."""
    return _CODES[dtype]


def dtype_of(code: int) -> DType:
    """The dtype of a code. Raises: ProtocolError."""
    if code >= len(_DTYPES):
        raise ProtocolError(f"ERR an engine process sent the unknown element type {code}")
    return _DTYPES[code]


def aligned(size: int) -> int:
    """The next multiple of 64."""
    return size + -size % _ALIGNMENT


def layout(parts: Sequence[Part]) -> Layout:
    """The header of these tensors; ignores their own offsets."""
    records = []
    for part in parts:
        records.append(_RECORD.pack(part.code, len(part.shape), part.nbytes))
        records.append(struct.pack(f"<{len(part.shape)}Q", *part.shape))
    header = b"".join(records)
    offsets = []
    at = aligned(len(header))
    for part in parts:
        offsets.append(at)
        at = aligned(at + part.nbytes)
    return Layout(header, tuple(offsets), at)


def parse_header(header: bytes, total: int) -> list[Part]:
    """The tensors of a message of `total` bytes.

    Raises: ProtocolError: they are inconsistent, or do not fit.
    """
    parts: list[Part] = []
    at, offset = 0, aligned(len(header))
    while at < len(header):
        if len(parts) >= _MOST_PARTS or len(header) - at < _RECORD.size:
            raise _malformed()
        code, rank, nbytes = _RECORD.unpack_from(header, at)
        at += _RECORD.size
        if rank > MAX_RANK + 1 or len(header) - at < 8 * rank:
            raise _malformed()
        shape = struct.unpack_from(f"<{rank}Q", header, at)
        at += 8 * rank
        if offset + nbytes > total or not _is_sound(code, shape, nbytes):
            raise _malformed()
        parts.append(Part(code, shape, nbytes, offset))
        offset = aligned(offset + nbytes)
    return parts


def _is_sound(code: int, shape: tuple[int, ...], nbytes: int) -> bool:
    if code == NONE:
        return not nbytes
    if code == ON_DEVICE:
        return bool(shape)
    dtype = dtype_of(code)
    if not is_shape(list(shape), dtype):
        return False
    count = math.prod(shape)
    return count <= nbytes if dtype is DType.STRING else count * dtype.itemsize == nbytes


def _malformed() -> ProtocolError:
    return ProtocolError("ERR an engine process sent a malformed header")
