"""Protobuf's wire format: a message without its largest fields, and their positions.

This removes large fields before TensorFlow's parser can copy them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from redisai_py.backend import Blob

__all__ = ["Span", "without"]

Span = tuple[int, int]
"""Positions of the first byte and after the last byte."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SHIFTS = range(0, 70, 7)
"""Maximum bytes of a 64-bit number."""
_MAX_FIELDS = 1_000_000
"""A large graph has a hundred thousand nodes; this many fields take a second, during which the GIL is held."""


def without(blob: Blob, path: Sequence[int], size: int) -> tuple[bytes, dict[int, list[Span]]]:
    """A message with the contents of its large fields removed.

    Args:    path: field numbers that lead from message to message; the last one is the field to empty.
             size: minimum size in bytes of a field to empty.
    Returns: the message; for the n-th field of number `path[0]`, the spans that were removed from it.
    Raises:  ValueError: not protobuf's wire format, or more than a million fields.
    """
    data = memoryview(blob)
    fields = count()
    pieces: list[bytes] = []
    spans: dict[int, list[Span]] = {}
    number, copied = -1, 0
    for tag, key, start, end in _fields(data, 0, len(data), fields):
        if key != path[0]:
            continue
        number += 1
        if end - start >= size:
            found: list[Span] = []
            message = _cut(data, start, end, path[1:], size, found, fields)
            if found:
                pieces += [bytes(data[copied:tag]), _delimited(data[tag:start], message)]
                copied, spans[number] = end, found
    return b"".join([*pieces, data[copied:]]), spans


def _cut(
    data: memoryview, at: int, end: int, path: Sequence[int], size: int, found: list[Span], fields: Iterator[int]
) -> bytes:
    pieces: list[bytes] = []
    for tag, key, start, stop in _fields(data, at, end, fields):
        if key != path[0] or stop - start < size:
            pieces.append(bytes(data[tag:stop]))
        elif len(path) == 1:
            found.append((start, stop))
        else:
            pieces.append(_delimited(data[tag:start], _cut(data, start, stop, path[1:], size, found, fields)))
    return b"".join(pieces)


def _delimited(head: memoryview, message: bytes) -> bytes:
    """A message after its key and its new size. `head`: the old key and size."""
    _, after_key = _varint(head, 0)
    size, rest = bytearray(), len(message)
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return bytes(head[:after_key]) + bytes(size) + message


def _fields(data: memoryview, at: int, end: int, fields: Iterator[int]) -> Iterator[tuple[int, int, int, int]]:
    """For each field: start of its key, its number if it is delimited (else 0), start and end of its content."""
    while at < end:
        if next(fields) > _MAX_FIELDS:
            raise ValueError(f"more than {_MAX_FIELDS} fields")
        tag = at
        key, at = _varint(data, at)
        kind, start = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("truncated field")
        yield tag, key >> 3 if kind == _BYTES else 0, start, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in _SHIFTS:
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("truncated or too long number")
