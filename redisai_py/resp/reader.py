"""hiredis's reader, fed so that it stays fast, and asked where values end. Pure."""

from __future__ import annotations

from typing import Any

import hiredis

__all__ = ["MORE", "STEP", "new_reader", "read"]

MORE: Any = object()
"""What a reader gives that needs more bytes. (hiredis's own choice is False, which is a value in RESP3.)"""
STEP = 16 * 1024
"""Bytes to feed at a time: as it goes on hiredis moves all that it still holds, time and again."""


def new_reader() -> hiredis.Reader:
    """A reader that gives MORE."""
    return hiredis.Reader(notEnoughData=MORE)


def read(reader: hiredis.Reader, data: bytes) -> tuple[list[Any], bool]:
    """The values that these bytes complete, and whether they end with a value. Raises: hiredis.ProtocolError."""
    values: list[Any] = []
    gets, has_data = reader.gets, reader.has_data
    whole = False  # to be asked right behind a value: later an empty buffer may also be that of one that has begun
    for at in range(0, len(data), STEP):
        reader.feed(data[at : at + STEP])
        whole = False
        while not whole and (value := gets()) is not MORE:
            values.append(value)
            whole = not has_data()
    return values, whole
