"""Protobuf's wire format: a message without its largest fields, and their positions.

This removes large fields before TensorFlow's parser can copy them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from redisai_py.backend import Blob
from redisai_py.protobuf import BYTES, fields, varint

__all__ = ["Span", "without"]

Span = tuple[int, int]
"""Positions of the first byte and after the last byte."""

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
    seen = count()
    pieces: list[bytes] = []
    spans: dict[int, list[Span]] = {}
    number, copied = -1, 0
    for tag, key, start, end in _fields(data, 0, len(data), seen):
        if key != path[0]:
            continue
        number += 1
        if end - start >= size:
            found: list[Span] = []
            message = _cut(data, start, end, path[1:], size, found, seen)
            if found:
                pieces += [bytes(data[copied:tag]), _delimited(data[tag:start], message)]
                copied, spans[number] = end, found
    return b"".join([*pieces, data[copied:]]), spans


def _cut(
    data: memoryview, at: int, end: int, path: Sequence[int], size: int, found: list[Span], seen: Iterator[int]
) -> bytes:
    pieces: list[bytes] = []
    for tag, key, start, stop in _fields(data, at, end, seen):
        if key != path[0] or stop - start < size:
            pieces.append(bytes(data[tag:stop]))
        elif len(path) == 1:
            found.append((start, stop))
        else:
            pieces.append(_delimited(data[tag:start], _cut(data, start, stop, path[1:], size, found, seen)))
    return b"".join(pieces)


def _delimited(head: memoryview, message: bytes) -> bytes:
    """A message after its key and its new size. `head`: the old key and size."""
    _, after_key = varint(head, 0)
    size, rest = bytearray(), len(message)
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return bytes(head[:after_key]) + bytes(size) + message


def _fields(data: memoryview, at: int, end: int, seen: Iterator[int]) -> Iterator[tuple[int, int, int, int]]:
    """For each field: start of its key, its number if it is delimited (else 0), start and end of its content."""
    for tag, number, kind, start, stop in fields(data, at, end):
        if next(seen) > _MAX_FIELDS:
            raise ValueError(f"more than {_MAX_FIELDS} fields")
        yield tag, number if kind == BYTES else 0, start, stop
