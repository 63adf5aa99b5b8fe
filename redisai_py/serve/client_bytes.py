"""How many bytes each front door holds for its clients: a page that all of them map, and each writes its own row of.

A message would come too late: a client can send a gigabyte in the time that a question takes.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

__all__ = ["ClientBytes", "Row"]

_ROW = struct.Struct("<QQQ")
_SEATS = 1024


class Row(NamedTuple):
    """door: its number, 0 for a free seat.   total: bytes of all its clients.   largest: bytes of one of them."""

    door: int
    total: int
    largest: int


class ClientBytes:
    """Args: fd: a file of `size` bytes."""

    size = _ROW.size * _SEATS

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, self.size)

    @classmethod
    def make(cls) -> ClientBytes:
        """A new one, all seats free."""
        fd = os.memfd_create("redisai-client-bytes", os.MFD_CLOEXEC)
        os.ftruncate(fd, cls.size)
        return cls(fd)

    def take_seat(self, door: int) -> int:
        """A free seat, for this front door from now on. In the supervisor only."""
        seat = next(seat for seat in range(_SEATS) if not self._row(seat).door)
        self.write(seat, Row(door, 0, 0))
        return seat

    def clear(self, seat: int) -> None:
        """The front door of this seat has ended."""
        self.write(seat, Row(0, 0, 0))

    def write(self, seat: int, row: Row) -> None:
        """Say what the front door of this seat holds."""
        _ROW.pack_into(self._page, seat * _ROW.size, *row)

    def rows(self) -> list[Row]:
        """Of all front doors that hold something."""
        return [row for row in map(Row._make, _ROW.iter_unpack(self._page[: self.size])) if row.total]

    def _row(self, seat: int) -> Row:
        return Row._make(_ROW.unpack_from(self._page, seat * _ROW.size))

    def close(self) -> None:
        """Let go of the page."""
        self._page.close()
        os.close(self.fd)
