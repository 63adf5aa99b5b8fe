"""Bytes that each front door holds for its clients, in a memory page that all of them map. Each writes its own row.

Messages would be too slow: a client can send a gigabyte before a question is answered.
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
    """door: number of the front door, 0: free seat.   total: bytes of all its clients.   largest: of one client."""

    door: int
    total: int
    largest: int


class ClientBytes:
    """Args: fd: of a file of `size` bytes."""

    size = _ROW.size * _SEATS

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, self.size)

    @classmethod
    def make(cls) -> ClientBytes:
        """Create a page with all seats free."""
        fd = os.memfd_create("redisai-client-bytes", os.MFD_CLOEXEC)
        os.ftruncate(fd, cls.size)
        return cls(fd)

    def take_seat(self, door: int) -> int:
        """Assign a free seat to this front door. Called by the supervisor only."""
        seat = next(seat for seat in range(_SEATS) if not self._row(seat).door)
        self.write(seat, Row(door, 0, 0))
        return seat

    def clear(self, seat: int) -> None:
        """Free the seat of a front door that has ended."""
        self.write(seat, Row(0, 0, 0))

    def write(self, seat: int, row: Row) -> None:
        """Publish how much the front door of this seat holds."""
        _ROW.pack_into(self._page, seat * _ROW.size, *row)

    def rows(self) -> list[Row]:
        """The rows of all front doors that hold anything."""
        return [row for row in map(Row._make, _ROW.iter_unpack(self._page[: self.size])) if row.total]

    def _row(self, seat: int) -> Row:
        return Row._make(_ROW.unpack_from(self._page, seat * _ROW.size))

    def close(self) -> None:
        """Unmap the page and close its file."""
        self._page.close()
        os.close(self.fd)
