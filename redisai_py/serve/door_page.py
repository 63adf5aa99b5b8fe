"""A memory page that all front doors of a server map: what each holds for its clients, and how busy it is.

Messages would be too slow: a client can send a gigabyte before a question is answered. Each front door writes its own
row, and reads those of the others.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

__all__ = ["DoorPage", "Row"]

_SEATS = 1024
_USED = struct.Struct("<Q")
"""Number of seats that were ever taken: the page begins with it, so that nobody reads the rest."""
_DOOR = struct.Struct("<Q")
_HELD = struct.Struct("<QQ")
_BUSY = struct.Struct("<dd")
_ROW = struct.Struct("<QQQdd")


class Row(NamedTuple):
    """door: number of the front door, 0: free seat.   total: bytes of all its clients.   largest: of one client.
    cores: number of cores that the process used lately.   at: when it said so, in monotonic seconds.
    """

    door: int
    total: int
    largest: int
    cores: float = 0.0
    at: float = 0.0


class DoorPage:
    """Args: fd: of a file of `size` bytes."""

    size = _USED.size + _ROW.size * _SEATS

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, self.size)

    @classmethod
    def make(cls) -> DoorPage:
        """Create a page with all seats free."""
        fd = os.memfd_create("redisai-front-doors", os.MFD_CLOEXEC)
        os.ftruncate(fd, cls.size)
        return cls(fd)

    def take_seat(self, door: int) -> int:
        """Assign a free seat to this front door. Called by the supervisor only."""
        seat = next(seat for seat in range(_SEATS) if not self._row(seat).door)
        self._write(seat, Row(door, 0, 0))
        if seat >= self._used():
            _USED.pack_into(self._page, 0, seat + 1)
        return seat

    def clear(self, seat: int) -> None:
        """Free the seat of a front door that has ended."""
        self._write(seat, Row(0, 0, 0))

    def hold(self, seat: int, total: int, largest: int) -> None:
        """Publish how much the front door of this seat holds for its clients."""
        _HELD.pack_into(self._page, _at(seat) + _DOOR.size, total, largest)

    def busy(self, seat: int, cores: float, at: float) -> None:
        """Publish how busy the front door of this seat is; see `Row`."""
        _BUSY.pack_into(self._page, _at(seat) + _DOOR.size + _HELD.size, cores, at)

    def rows(self) -> list[Row]:
        """The rows of all front doors."""
        used = self._page[_USED.size : _at(self._used())]
        return [row for row in map(Row._make, _ROW.iter_unpack(used)) if row.door]

    def _used(self) -> int:
        (used,) = _USED.unpack_from(self._page, 0)
        return min(int(used), _SEATS)

    def _row(self, seat: int) -> Row:
        return Row._make(_ROW.unpack_from(self._page, _at(seat)))

    def _write(self, seat: int, row: Row) -> None:
        _ROW.pack_into(self._page, _at(seat), *row)

    def close(self) -> None:
        """Unmap the page and close its file."""
        self._page.close()
        os.close(self.fd)


def _at(seat: int) -> int:
    return _USED.size + seat * _ROW.size
