"""The server's end of a pipe: batches of one model on their way to its process, several at a time, without waiting.

The event loop writes a batch into memory that both map, and tells the process of all that it wrote in one message. The
process executes them one after the other and rings a bell; what has ended is then read from the memory in one go. Which
run it is at is known at any time, also after its end. What the process writes is checked before it is believed.

Thread: the event loop's, except where noted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation import pipe_layout as at
from redisai_py.engine.isolation.wire import Layout, Part
from redisai_py.errors import ProtocolError

__all__ = ["Ended", "Flight", "Pipe"]

_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_MOST_BELL = 64
_LAST_PLACE = 1 << 62


B = TypeVar("B")


class Flight(Generic[B]):
    """A batch in a pipe. end: up to where the ring of requests is free when it has ended.   thinned: nobody waits for
    some of its runs any more.
    """

    __slots__ = ("batch", "end", "thinned")

    def __init__(self, batch: B, end: int) -> None:
        self.batch = batch
        self.end = end
        self.thinned = False


class Ended(NamedTuple, Generic[B]):
    """A batch that has ended. ns: in the framework.   message: valid until `tell`."""

    flight: Flight[B]
    op: int
    ns: int
    header: bytes
    message: memoryview

    def parts(self) -> Sequence[Part]:
        """The outputs. Raises: ProtocolError."""
        return memory.parsed(self.header, len(self.message))


class Pipe(Generic[B]):
    """Args: number: of its process's lanes and pipes.   user: the session whose runs it carries."""

    __slots__ = (
        "_answers",
        "_control",
        "_files",
        "_next",
        "_read_up_to",
        "_requests",
        "_ring",
        "_shared",
        "_unsent",
        "first",
        "flights",
        "number",
        "sock",
        "stopped",
        "user",
    )

    def __init__(self, number: int, user: Any, sock: socket.socket, fd: int) -> None:
        self.number = number
        self.user = user
        self.sock = sock
        sock.setblocking(False)
        self._shared = memory.mapped(fd, at.PIPE_BYTES)
        both = memoryview(self._shared)
        self._control = both[: at.REQUESTS_AT].toreadonly()
        self._requests = both[at.REQUESTS_AT : at.ANSWERS_AT]
        self._answers = both[at.ANSWERS_AT :].toreadonly()
        self._ring = at.Ring()
        self._read_up_to = 0
        self._next = 1
        self.first = 1
        """Number of the first batch that has not ended, or of the next one to be put."""
        self.flights: dict[int, Flight[B]] = {}
        """By number, which is the order in which they are executed."""
        self._unsent: list[bytes] = []
        self._files: list[int] = []
        self.stopped = 0
        """Number of the batch that was told to stop, 0 for none."""

    # -- there ---------------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether one more message of up to MESSAGE_BYTES may be sent."""
        return len(self.flights) < at.RECORDS // 2 and self._ring.is_half_empty

    def put(self, batches: Sequence[B], layout: Layout) -> memoryview:
        """More batches, all of this layout; gives the memory of their message, for the data (see REQUEST). The process
        hears of it by `tell`.
        """
        header = layout.header
        header_bytes = len(header)
        count = len(batches)
        size = layout.total + (count - 1) * at.stride_of(header_bytes, layout.total)
        place = self._ring.take(size)
        assert place is not None, "ask has_room"
        number = self._next
        self._next += count
        self._unsent.append(at.REQUEST.pack(number, place, header_bytes, count, layout.total))
        flights = self.flights
        flight: Flight[B]
        for batch in batches:
            flight = flights[number] = Flight(batch, place)
            number += 1
        flight.end = self._ring.taken  # the message is free when the last of them has ended
        offset = place % at.RING_BYTES
        message = self._requests[offset : offset + size]
        message[:header_bytes] = header
        return message

    def tell(self) -> None:
        """Tell the process of what was put. Raises: OSError: it has ended, or takes nothing."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            self.sock.send(at.FREED.pack(self._read_up_to) + b"".join(unsent))

    # -- and back ------------------------------------------------------------------------------------------------------

    def hear(self) -> bool:
        """Take a bell; False at the end of the process. Raises: ProtocolError, OSError."""
        try:
            return self._hear()
        except BlockingIOError:
            return True

    def _hear(self) -> bool:
        data, ancillary, _, _ = self.sock.recvmsg(_MOST_BELL, _ANCILLARY_BYTES)
        for _, _, raw in ancillary:
            self._files.extend(struct.unpack(f"{len(raw) // 4}i", raw))
        if data and data != at.BELL:
            raise ProtocolError("ERR an engine process sent what is no bell")
        return bool(data)

    @property
    def ended_number(self) -> int:
        """Number of the run that has ended last, as the process says. Thread: any."""
        return int(at.COUNTER.unpack_from(self._control, at.ENDED_AT)[0])

    @property
    def waiting(self) -> int:
        """How many batches have not ended, as the process says."""
        return self._next - 1 - self.ended_number

    @property
    def current_number(self) -> int:
        """Number of the run that is under way, 0 for none: the process tells before it begins. Thread: any."""
        begun = int(at.COUNTER.unpack_from(self._control, at.BEGUN_AT)[0])
        return begun if begun in self.flights and begun != self.ended_number else 0

    @property
    def under_way(self) -> bool:
        """Whether the process is in a run. Thread: any."""
        return bool(self.current_number)

    @property
    def turn_s(self) -> float:
        """When the latest run had its turn, in monotonic seconds; 0 if all runs have theirs at once."""
        return float(at.COUNTER.unpack_from(self._control, at.TURN_AT)[0]) / 1e9

    def take_ended(self, up_to: int) -> Ended[B] | None:
        """The next batch that has ended, of those up to that number. Raises: ProtocolError."""
        number = self.first
        flight = self.flights.get(number)
        if number > up_to or flight is None:
            return None
        op, flags, _, header_bytes, ns, place, total = at.RECORD.unpack_from(self._control, at.record_at(number))
        if flags & wire.LARGE:
            message = self._large(total)
        else:
            offset = place % at.RING_BYTES
            if offset + total > at.RING_BYTES or place > _LAST_PLACE:
                raise ProtocolError("ERR an engine process sent a malformed answer")
            message = self._answers[offset : offset + total]
            self._read_up_to = place + wire.aligned(total)
        if header_bytes > total:
            raise ProtocolError("ERR an engine process sent a malformed answer")
        del self.flights[number]
        self.first += 1
        self._ring.freed = flight.end
        return Ended(flight, op, ns, bytes(message[:header_bytes]), message)

    def _large(self, total: int) -> memoryview:
        with contextlib.suppress(
            OSError
        ):  # it was sent before the record was written, and need not have been heard yet
            while not self._files and self._hear():
                pass
        if not self._files:
            raise ProtocolError("ERR an engine process sent no file with a large answer")
        fd = self._files.pop(0)
        try:
            return memoryview(memory.read_only(fd, total))
        finally:
            os.close(fd)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the socket, which ends the far end; the memory goes with its last user."""
        self.sock.close()
        for fd in self._files:
            os.close(fd)
        self._files.clear()
