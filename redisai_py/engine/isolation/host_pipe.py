"""The far end of a pipe, in the engine process: runs of one model, one after the other, without waiting for the server.

Which run is under way stands in the shared memory before it begins: if it ends the process, the server knows which it
was. The bell is rung when nothing more is there to run, and in between every `_BELL_NS`, so that the server works on
the first results while the rest is computed and is not woken for each.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from redisai_py.backend import Array
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation import pipe_layout as at
from redisai_py.engine.isolation.host_messages import HeldValues, failure_of
from redisai_py.engine.isolation.hosted import Hosted
from redisai_py.engine.isolation.vital import VitalThread
from redisai_py.engine.isolation.wire import Layout, Op

__all__ = ["HostPipe"]

_BELL_NS = 150_000
_MOST_BYTES = 8 + at.RECORDS * at.REQUEST.size


class HostPipe:
    """Args: sock, fd: the pipe's.   hosted: the model.   held: the process's values on the device."""

    def __init__(self, sock: socket.socket, fd: int, hosted: Hosted, held: HeldValues) -> None:
        self._sock = sock
        self.hosted = hosted
        self._held = held
        self._shared = memory.mapped(fd, at.PIPE_BYTES)
        os.close(fd)
        both = memoryview(self._shared)
        self._control = both[: at.REQUESTS_AT]
        self._requests = both[at.REQUESTS_AT : at.ANSWERS_AT].toreadonly()
        self._answers = both[at.ANSWERS_AT :]
        self._ring = at.Ring()
        self._number = 0
        self._hung_up = False
        self._to_tell = False
        self._rang_ns = 0
        self._kind: list[Any] = []
        """Dtypes and shapes of the latest outputs, if they were arrays of numbers."""
        self._layout = Layout(b"", (), 0)
        self.thread = VitalThread(self._work, "redisai pipe")

    def stop(self, number: int) -> None:
        """Stop that run if it is under way."""
        if self._number == number:
            self.hosted.terminate(self.thread.ident)

    @property
    def is_running(self) -> bool:
        """Whether it is in a run."""
        return bool(self._number)

    def hang_up(self) -> None:
        """Stop the run that is under way; the thread ends."""
        self.close()
        if self._number:
            self.stop(self._number)

    def close(self) -> None:
        """Hang up; the thread ends. What has not ended well by then stays unanswered: the server repeats it."""
        self._hung_up = True
        with suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        with suppress(ConnectionError):  # the server has hung up
            while data := self._receive():
                self._serve_all(data)
        self._sock.close()

    def _serve_all(self, data: bytes) -> None:
        (freed,) = at.FREED.unpack_from(data)
        self._ring.freed = max(self._ring.freed, freed)
        for first, place, header_bytes, count, total in at.REQUEST.iter_unpack(memoryview(data)[at.FREED.size :]):
            stride = at.stride_of(header_bytes, total)
            offset = place % at.RING_BYTES
            message = self._requests[offset : offset + total + (count - 1) * stride]
            columns = memory.columns_of(message, memory.parsed(bytes(message[:header_bytes]), total), count, stride)
            for row in range(count):
                self._serve(first + row, [column[row, ...] for column in columns])

    def _receive(self) -> bytes:
        """The next requests; empty at the end."""
        try:
            return self._sock.recv(_MOST_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if self._to_tell:
                self._ring_bell()
            data = self._sock.recv(_MOST_BYTES)
            self._rang_ns = time.perf_counter_ns()
            return data

    def _serve(self, number: int, inputs: list[Array]) -> None:
        hosted = self.hosted
        ns = 0
        op = Op.DONE
        message: Layout
        data: Sequence[Any]
        try:
            with hosted.guard:
                self._number = number
                if hosted.exclusive:
                    at.COUNTER.pack_into(self._control, at.TURN_AT, time.monotonic_ns())
                at.COUNTER.pack_into(self._control, at.BEGUN_AT, number)
                started = time.perf_counter_ns()
                try:
                    outputs = hosted.run(inputs, False)
                finally:
                    ended = time.perf_counter_ns()
                    ns = ended - started
                    self._number = 0
            kind = [(output.dtype, output.shape) for output in outputs if type(output) is np.ndarray]
            if kind == self._kind and len(kind) == len(outputs):
                message, data = self._layout, outputs
            else:
                message, data = self._held.outputs(outputs)
                if data is outputs:  # arrays of numbers: those of the next run probably look the same
                    self._kind, self._layout = kind, message
        except BaseException as error:  # of whatever kind: the server is told, and gives it to the client
            if self._hung_up:  # it was stopped, or its model is unloaded: that is no failure of the client's run
                raise ConnectionAbortedError from None
            op, message, data = Op.FAILED, failure_of(error), ()
            ended = time.perf_counter_ns()
        self._answer(number, op, ns, message, data)
        if ended - self._rang_ns > _BELL_NS:
            self._ring_bell()
            self._rang_ns = ended
        else:
            self._to_tell = True

    def _answer(self, number: int, op: int, ns: int, message: Layout, data: Sequence[Any]) -> None:
        """Put an answer where the server finds it."""
        flags = 0
        header, _, total = message
        place = self._ring.take(total) if total <= at.MESSAGE_BYTES else None
        if place is not None:
            offset = place % at.RING_BYTES
            memory.write(self._answers[offset : offset + total], message, data)
        else:
            place, flags = 0, wire.LARGE
            self._send_large(message, data)
        control = self._control
        at.RECORD.pack_into(control, at.record_at(number), op, flags, 0, len(header), ns, place, total)
        at.COUNTER.pack_into(control, at.ENDED_AT, number)

    def _send_large(self, message: Layout, data: Any) -> None:
        fd = memory.create(max(message.total, 1))
        try:
            with memory.mapped(fd, message.total) as file, memoryview(file) as view:
                memory.write(view, message, data)
            socket.send_fds(self._sock, [at.BELL], [fd])
        finally:
            os.close(fd)

    def _ring_bell(self) -> None:
        self._to_tell = False
        with suppress(BlockingIOError):  # so many bells are there that one more is not needed
            self._sock.send(at.BELL, socket.MSG_DONTWAIT)
