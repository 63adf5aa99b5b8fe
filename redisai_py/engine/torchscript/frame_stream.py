"""Frames to and from one worker process, on the event loop's thread."""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence

from redisai_py.errors import ProtocolError
from redisai_py.framing import Frame, FrameReader
from redisai_py.tensor import Buffer

__all__ = ["FrameStream"]

_MAX_PARTS = 512
_READS_PER_WAKE = 64


class FrameStream:
    """Frames to and from one worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_frame: Callable[[Frame], object],
        on_broken: Callable[[ProtocolError], object],
        on_end: Callable[[], object],
        max_payload_bytes: int,
    ) -> None:
        """`on_broken`: the worker sent an invalid frame.   `on_end`: it sends no more; the manager says why."""
        self._loop = loop
        self._sock = sock
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._on_end = on_end
        self._reader = FrameReader(max_payload_bytes)
        self._unsent: deque[memoryview] = deque()
        sock.setblocking(False)
        loop.add_reader(sock, self.read)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until something arrives, or the end, and handle it; False if nothing does in time, or it is closed."""
        if self._sock.fileno() < 0 or not self._poll.poll(timeout_ms):
            return False
        self.read()
        return True

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Write now what the socket accepts, and the rest later. False: the worker has ended, and nothing was sent."""
        if self._sock.fileno() < 0:
            return False
        waiting = bool(self._unsent)
        self._unsent.extend(memoryview(buffer) for buffer in buffers)
        if waiting:
            return True
        if not self._write():
            return False
        if self._unsent:
            self._loop.add_writer(self._sock, self._write_more)
        return True

    def read(self) -> None:
        """Handle what has arrived."""
        for _ in range(_READS_PER_WAKE):
            if self._sock.fileno() < 0:
                return
            buffer = self._reader.buffer()
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if count == 0:
                self._loop.remove_reader(self._sock)
                self._on_end()
                return
            full = count == len(buffer)
            buffer.release()
            try:
                frames = self._reader.received(count)
            except ProtocolError as error:
                self._on_broken(error)
                return
            for frame in frames:
                self._on_frame(frame)
            if frames and not full:
                return  # nothing follows; in the middle of a large frame, more has probably arrived meanwhile

    def close(self) -> None:
        """Forget the worker; nothing more is reported."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._unsent.clear()

    def _write_more(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._sock)

    def _write(self) -> bool:
        unsent, sent = self._unsent, False
        while unsent:
            try:
                if len(unsent) == 1:
                    count = self._sock.send(unsent[0])
                else:
                    count = self._sock.sendmsg([unsent[i] for i in range(min(len(unsent), _MAX_PARTS))])
            except BlockingIOError:
                return True
            except OSError:
                unsent.clear()
                return sent
            sent = True
            while unsent and count >= len(unsent[0]):
                count -= len(unsent.popleft())
            if count:
                unsent[0] = unsent[0][count:]
        return True
