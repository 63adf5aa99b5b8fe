"""Redis's replies: parsed by hiredis, fed in pieces that keep it fast; or cut apart unparsed. Pure."""

from __future__ import annotations

from typing import Any

import hiredis

__all__ = ["MORE", "STEP", "new_reader", "parse_reply", "read", "split_replies"]

MORE: Any = object()
"""What a reader returns if it needs more bytes. (hiredis's own default is False, which is a value in RESP3.)"""
STEP = 16 * 1024
"""Bytes to feed at a time: hiredis repeatedly moves all the data that it still holds."""


def new_reader() -> hiredis.Reader:
    """A reader that returns MORE."""
    return hiredis.Reader(notEnoughData=MORE)


def read(reader: hiredis.Reader, data: bytes) -> tuple[list[Any], bool]:
    """The values that these bytes complete, and whether they end with a value. Raises: hiredis.ProtocolError."""
    values: list[Any] = []
    gets, has_data = reader.gets, reader.has_data
    whole = False  # asked directly after a value: later, an empty buffer may also mean that a value has begun
    for at in range(0, len(data), STEP):
        reader.feed(data[at : at + STEP])
        whole = False
        while not whole and (value := gets()) is not MORE:
            values.append(value)
            whole = not has_data()
    return values, whole


def parse_reply(raw: bytes) -> Any:
    """The value of one whole reply; a `hiredis.ReplyError` for an error."""
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


_BULK = frozenset(b"$=!")
_AGGREGATE = {42: 1, 126: 1, 62: 1, 37: 2, 124: 2}  # * ~ > one value per item; % | two


def split_replies(data: bytes, position: int, count: int) -> list[bytes] | None:
    """The raw bytes of the `count` replies from `position` on; None if they are incomplete.

    For a reply that must be passed on byte for byte but in parts (EXEC with AI commands in it). An attribute (`|`)
    belongs to the reply after it.
    """
    replies = []
    for _ in range(count):
        stop = _reply_end(data, position)
        if stop < 0:
            return None
        replies.append(data[position:stop])
        position = stop
    return replies


def _reply_end(data: bytes, position: int) -> int:
    pending = 1
    size = len(data)
    while pending:
        line = data.find(b"\r\n", position)
        if line < 0:
            return -1
        kind = data[position]
        if kind in _BULK:
            length = int(data[position + 1 : line])
            position = line + 2 + (length + 2 if length >= 0 else 0)
            if position > size:
                return -1
        else:
            if kind in _AGGREGATE:
                pending += max(int(data[position + 1 : line]), 0) * _AGGREGATE[kind]
                if kind == 124:
                    pending += 1
            position = line + 2
        pending -= 1
    return position
