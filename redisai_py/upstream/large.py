"""A connection for values of 64 KiB and more, so that one 64 MB SET does not block everybody on the shared stream.

Segments are written unjoined. A large reply is received straight into its own buffer, or streamed through.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from redisai_py.errors import RedisAIError, UpstreamLost
from redisai_py.pending import Pending
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.templates import encode_command

__all__ = ["LargeUpstream", "Sink"]

_LARGE_REPLY = 64 * 1024
_STREAMED = 256 * 1024
"""Bytes passed on at a time when a reply is streamed."""


class Sink(Protocol):
    """Receives a large reply as it arrives."""

    def begin(self, size: int) -> None:
        """A string of this many bytes follows."""

    def take(self, piece: bytes) -> None:
        """The next bytes of it, including the final CR LF."""


class LargeUpstream(asyncio.BufferedProtocol):
    """A connection that moves large values, one group of commands at a time; replies may be bulk strings, lines, or
    arrays of them.

    It is fast because segments are written unjoined, and a bulk reply is received into its final buffer.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = False
        self._chunk = bytearray(_LARGE_REPLY)
        self._text = bytearray()  # small pieces, not yet consumed
        self._bulk: memoryview | None = None
        self._filled = 0
        self._frames: list[list[Any]] = []  # open arrays: [items outstanding, items]
        self._waiting: deque[Pending[Any]] = deque()
        self._refused: RedisAIError | None = None
        self._sink: Sink | None = None  # receives the next reply
        self._to_stream = 0  # bytes of it that are outstanding
        self._streamed_size = 0
        self.rehearsed = False  # see `store.link`
        self.on_flow: Callable[[bool], object] | None = None  # called while streaming: True to pause, False to resume

    @property
    def awaits_reply(self) -> bool:
        """Whether a reply is outstanding."""
        return bool(self._waiting)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        if self.on_flow is not None:
            self.on_flow(True)

    def resume_writing(self) -> None:
        if self.on_flow is not None:
            self.on_flow(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.on_flow is not None:
            self.on_flow(False)
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            pending.fail(self._refused or UpstreamLost.under_way(exc))

    def call(self, *argv: Any) -> Pending[Any]:
        """Send one command; large arguments are written without being joined or copied."""
        pending = self.expect()
        if not self.closed:
            for segment in encode_command(list(argv)):
                self.transport.write(segment)
        return pending

    def stream(self, sink: Sink, *argv: Any) -> Pending[int | None]:
        """Send one command whose reply, if it is a string, goes to `sink`. Returns: its size, or None for nil.

        Nothing else may be outstanding on this connection.
        """
        self._sink = sink
        self._chunk = bytearray(_STREAMED)
        return self.call(*argv)

    def expect(self) -> Pending[Any]:
        """The reply to a command that the caller writes to `transport` itself."""
        pending: Pending[Any] = Pending()
        if self.closed:
            pending.fail(self._refused or UpstreamLost.under_way(None))
        else:
            self._waiting.append(pending)
        return pending

    def close(self) -> None:
        """Close without waiting."""
        if self.transport is not None:
            self.transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._bulk is not None:
            return self._bulk[self._filled :]
        return memoryview(self._chunk)

    def buffer_updated(self, nbytes: int) -> None:
        if self._to_stream:
            self._pass_on(bytes(memoryview(self._chunk)[:nbytes]))
            return
        if self._bulk is not None:
            self._filled += nbytes
            if self._filled < len(self._bulk):
                return
            bulk, self._bulk = self._bulk, None
            self._deliver(bulk[:-2].toreadonly())
            return
        self._text += self._chunk[:nbytes]
        while self._bulk is None and self._take_one():
            pass

    def _take_one(self) -> bool:
        text = self._text
        line = text.find(b"\r\n")
        if line < 0:
            return False
        kind, word = text[0], bytes(text[1:line])
        if kind == 36 and word != b"-1":  # '$'
            return self._take_bulk(line + 2, int(word))
        del text[: line + 2]
        if kind == 42 and word not in (b"-1", b"0"):  # '*'
            self._frames.append([int(word), []])
        elif kind == 58:  # ':'
            self._deliver(int(word))
        elif kind == 45:  # '-'
            self._deliver(redis_error(word.decode("utf-8", "replace")))
        elif kind == 43:  # '+'
            self._deliver(word)
        else:
            self._deliver([] if word == b"0" else None)
        return True

    def _pass_on(self, piece: bytes) -> None:
        sink = self._sink
        assert sink is not None
        self._to_stream -= len(piece)
        sink.take(piece)
        if not self._to_stream:
            self._deliver(self._streamed_size)

    def _begin_to_stream(self, sink: Sink, start: int, size: int) -> bool:
        self._to_stream, self._streamed_size = size + 2, size
        piece = bytes(self._text[start:])
        self._text.clear()
        sink.begin(size)
        if piece:
            self._pass_on(piece)
        return False

    def _take_bulk(self, start: int, size: int) -> bool:
        if self._sink is not None:
            return self._begin_to_stream(self._sink, start, size)
        text = self._text
        stop = start + size + 2
        if len(text) >= stop:
            value = bytes(text[start : stop - 2])
            del text[:stop]
            self._deliver(value)
            return True
        if size < _LARGE_REPLY:
            return False
        # np.empty leaves the pages untouched until the kernel fills them; bytearray would write zeros first.
        self._bulk = np.empty(size + 2, np.uint8).data
        self._filled = len(text) - start
        self._bulk[: self._filled] = text[start:]
        text.clear()
        return False

    def _deliver(self, value: Any) -> None:
        if self._sink is not None:
            self._sink = None
            self._chunk = bytearray(_LARGE_REPLY)
        while self._frames:
            frame = self._frames[-1]
            frame[1].append(value)
            if len(frame[1]) < frame[0]:
                return
            value = frame[1]
            self._frames.pop()
        if not self._waiting:  # an unsolicited reply: Redis refuses the connection, and closes it
            self._refused = value if isinstance(value, RedisAIError) else None
            return
        pending = self._waiting.popleft()
        if isinstance(value, RedisAIError):
            pending.fail(value)
        else:
            pending.resolve(value)
