"""hiredis's reader, fed so that it stays fast, and asked where it stands. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis

__all__ = ["MORE", "STEP", "is_between_values", "new_reader", "values"]

MORE: Any = object()
"""What a reader gives that needs more bytes. (hiredis's own choice is False, which is a value in RESP3.)"""
STEP = 16 * 1024
"""Bytes to feed at a time: as it goes on hiredis moves all that it still holds, time and again."""
_MARK = b"+\0\r\n"


def new_reader() -> hiredis.Reader:
    """A reader for `values`."""
    return hiredis.Reader(notEnoughData=MORE)


def values(reader: hiredis.Reader, data: bytes) -> Iterator[Any]:
    """The values that these bytes complete. Raises: hiredis.ProtocolError."""
    gets = reader.gets
    for at in range(0, len(data), STEP):
        reader.feed(data[at : at + STEP])
        while (value := gets()) is not MORE:
            yield value


def is_between_values(reader: hiredis.Reader) -> bool:
    """Whether what came ended with a value. If not, the reader is of no use any more.

    An empty buffer does not tell: the reader may be between two elements of an array, or behind a value's first byte.
    So a mark is fed to it, which comes out again only between values.
    """
    if reader.has_data():
        return False
    reader.feed(_MARK)
    try:
        return bool(reader.gets() == b"\0")
    except hiredis.ProtocolError:  # the first byte of a value had come
        return False
