"""A lane to an engine process: one exchange at a time, for which one thread waits.

A thread writes its request into memory that both map, sends a frame, and sleeps in the kernel, without the GIL, until
the answer's frame is there. Messages that do not fit travel in a memory file of their own.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.inline_runs import INLINE_TIMEOUT_S
from redisai_py.engine.isolation.wire import Frame, Layout
from redisai_py.errors import ProtocolError

__all__ = ["Answer", "Lane"]

_ANCILLARY_BYTES = socket.CMSG_SPACE(4)


class Answer(NamedTuple):
    """An answer: op and number of the frame, header and the whole message, valid while the lane is held."""

    op: int
    number: int
    header: bytes
    message: memoryview


class Lane:
    """Used by one thread at a time."""

    __slots__ = (
        "_answers",
        "_requests",
        "_shared",
        "inline",
        "loads",
        "number",
        "reported",
        "since",
        "sock",
        "stopped",
        "thread_id",
        "user",
    )

    def __init__(self, number: int, sock: socket.socket, fd: int) -> None:
        self.number = number
        self.sock = sock
        self._shared = memory.mapped(fd, memory.LANE_FILE_BYTES)
        both = memoryview(self._shared)
        self._requests = both[: memory.LANE_BYTES]
        self._answers = both[memory.LANE_BYTES : memory.RUNNING_AT].toreadonly()
        self.user: object = None
        """The session whose run or load is in progress."""
        self.inline = False
        """Whether it belongs to the event loop."""
        self.loads = False
        self.since = 0.0
        self.reported = False
        self.thread_id = 0
        self.stopped = False
        """Whether the run was told to stop."""

    @property
    def under_way(self) -> bool:
        """Whether the process is at a load, or in a run: a run may wait for its turn there. Thread: any."""
        return bool(self._shared[memory.RUNNING_AT])

    @property
    def turn_s(self) -> float:
        """When the run had its turn, in monotonic seconds; 0 if all runs have theirs at once."""
        return float(memory.STAMP.unpack_from(self._shared, memory.TURN_AT)[0]) / 1e9

    def exchange(
        self, op: int, flags: int, number: int, request: Layout, data: Sequence[Any], fds: Sequence[int] = ()
    ) -> Answer:
        """Send a request and wait for its answer.

        Args:   fds: files to send along.
        Raises: OSError: the process has ended, or the socket's timeout has passed.
                ProtocolError: it sent what is not an answer.
        """
        header_bytes = len(request.header)
        if request.total <= memory.LANE_BYTES:
            memory.write(self._requests, request, data)
            frame = wire.FRAME.pack(op, flags, 0, header_bytes, number, request.total)
            if fds:
                socket.send_fds(self.sock, [frame], fds)
            else:
                self.sock.send(frame)
        else:
            self._send_large(Frame(op, flags | wire.LARGE, header_bytes, number, request.total), request, data, fds)
        return self._answer()

    def finish(self) -> None:
        """Wait on a worker thread for the answer of an exchange that the event loop began, and discard it.

        Raises: OSError, ProtocolError.
        """
        self.thread_id = threading.get_ident()
        self.since, self.reported = time.monotonic(), False
        self.sock.settimeout(None)
        self._answer()
        self.sock.settimeout(INLINE_TIMEOUT_S)

    def _send_large(self, frame: Frame, request: Layout, data: Sequence[Any], fds: Sequence[int]) -> None:
        fd = memory.create(request.total)
        try:
            with memory.mapped(fd, request.total) as file, memoryview(file) as view:
                memory.write(view, request, data)
            socket.send_fds(self.sock, [frame.pack()], [fd, *fds])
        finally:
            os.close(fd)

    def _answer(self) -> Answer:
        data, ancillary, _, _ = self.sock.recvmsg(wire.FRAME.size, _ANCILLARY_BYTES)
        if not data:
            raise ConnectionResetError
        frame = Frame.unpack(data)
        message: memoryview = self._answers
        if ancillary:
            (fd,) = struct.unpack("i", ancillary[0][2])
            try:
                message = memoryview(memory.read_only(fd, frame.total_bytes))
            finally:
                os.close(fd)
        elif frame.total_bytes > memory.LANE_BYTES:
            raise ProtocolError("ERR an engine process sent a malformed frame")
        return Answer(frame.op, frame.number, bytes(message[: frame.header_bytes]), message)

    def close(self) -> None:
        """Close the socket; the memory is freed with its last user."""
        self.sock.close()
