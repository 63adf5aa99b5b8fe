"""The memory of a pipe, which carries runs of one model to its process and their results back. Pure.

    0       number of the run that the process began last
    64      number of the run that it ended last
    128     when a run had its turn last, in monotonic nanoseconds; only in sessions that one thread may enter
    512     one RECORD per run: where its outputs are, at `number % RECORDS`
    4096    ring of the requests, RING_BYTES
    ...     ring of the answers, RING_BYTES

Runs are numbered from 1 on and executed in this order. The server sends descriptors of requests (`REQUEST`) behind an
8-byte `FREED`; the process sends `BELL` when runs have ended. Messages are those of `wire`.
"""

from __future__ import annotations

import struct

from redisai_py.engine.isolation.wire import aligned

__all__ = [
    "ANSWERS_AT",
    "BEGUN_AT",
    "BELL",
    "COUNTER",
    "ENDED_AT",
    "FREED",
    "MESSAGE_BYTES",
    "PIPE_BYTES",
    "RECORD",
    "RECORDS",
    "REQUEST",
    "REQUESTS_AT",
    "RING_BYTES",
    "TURN_AT",
    "Ring",
    "most_in_message",
    "record_at",
    "stride_of",
]

COUNTER = struct.Struct("<Q")
FREED = struct.Struct("<Q")
"""Up to where the server has read the ring of answers."""
REQUEST = struct.Struct("<QQIIQ")
"""number of the first run, place in the ring, bytes of the header, number of runs, bytes of the message of one run.

Several runs of one kind share a header: the data of each further run follow those of the one before it, and so each
takes `stride_of` bytes more.
"""
RECORD = struct.Struct("<BBHIQQQ")
"""op and flags as in a `wire.Frame`, 0, bytes of the header, nanoseconds in the framework, place, bytes of the message.
"""
BELL = b"\x01"

RECORDS = 64
"""More runs than this are never under way."""
RING_BYTES = 1 << 20
MESSAGE_BYTES = RING_BYTES // 4
"""The largest message. A ring that is at most half full has room for one, wherever its end is."""

BEGUN_AT = 0
ENDED_AT = 64
TURN_AT = 128
_RECORDS_AT = 512
REQUESTS_AT = 4096
ANSWERS_AT = REQUESTS_AT + RING_BYTES
PIPE_BYTES = ANSWERS_AT + RING_BYTES


def stride_of(header_bytes: int, total: int) -> int:
    """Bytes of a run's data, in a message with a header of this size and `total` bytes."""
    return total - aligned(header_bytes)


def most_in_message(header_bytes: int, total: int) -> int:
    """How many runs of such messages fit into one, at least 1."""
    return 1 + (MESSAGE_BYTES - total) // max(64, stride_of(header_bytes, total))


def record_at(number: int) -> int:
    """Where the record of a run is."""
    return _RECORDS_AT + number % RECORDS * RECORD.size


class Ring:
    """Places in a ring, which are taken and freed in order. A place counts all bytes ever passed, laps included."""

    __slots__ = ("freed", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.freed = 0

    @property
    def is_half_empty(self) -> bool:
        """Whether a message of up to MESSAGE_BYTES has room."""
        return self.taken - self.freed <= RING_BYTES // 2

    def take(self, size: int) -> int | None:
        """A place for a message, in one piece; None if there is none. Its offset is `place % RING_BYTES`."""
        if self.freed == self.taken:  # empty: the same memory again, which the caches still have
            self.taken = self.freed = self.taken + -self.taken % RING_BYTES
        place = self.taken
        offset = place % RING_BYTES
        if offset + size > RING_BYTES:
            place += RING_BYTES - offset
        end = place + aligned(size)
        if end - self.freed > RING_BYTES:
            return None
        self.taken = end
        return place
