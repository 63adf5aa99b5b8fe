"""Protobuf's wire format, for models that must be examined before a framework parses them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from redisai_py.tensor import Buffer

__all__ = ["BYTES", "FIXED_SIZES", "VARINT", "fields", "varint"]

VARINT, BYTES = 0, 2
FIXED_SIZES = {1: 8, 5: 4}
"""Wire types of numbers of a fixed size -> size in bytes."""
_32_BITS = 0xFFFFFFFF
"""The bits that protobuf keeps of a key, however many are sent."""
_SHIFTS = range(0, 70, 7)
"""Maximum bytes of a 64-bit number. More would allow numbers of megabytes, which take quadratic time."""


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it. Raises: ValueError: truncated, or too long."""
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


def fields(data: Buffer, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int, int]]:
    """The fields of a message: position of the key, field number, wire type, start and end of the content.

    Args:   at, end: the message's positions; by default all of the data.
    Raises: ValueError: not protobuf's wire format, without groups.
    """
    end = len(data) if end is None else end
    while at < end:
        tag = at
        key, start = varint(data, at)
        kind = key & 7
        if kind == BYTES:
            size, start = varint(data, start)
            at = start + size
        elif kind == VARINT:
            _, at = varint(data, start)
        elif kind in FIXED_SIZES:
            at = start + FIXED_SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("truncated field")
        yield tag, (key & _32_BITS) >> 3, kind, start, at
