"""The connection for the AI commands of all clients with one identity (user, password, database). It is pipelined, so
Redis sees one stream instead of many small writes.

Only complete and validated commands are sent, and nothing is ever sent again, because it may have been applied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import hiredis

from redisai_py.errors import UpstreamError, UpstreamLost
from redisai_py.pending import Pending
from redisai_py.resp.reader import MORE, STEP, new_reader
from redisai_py.resp.redis_errors import redis_error
from redisai_py.upstream.burst_replies import INCOMPLETE, UNLIKE, BurstReplies
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.containment import contain

__all__ = ["Callback", "SharedUpstream", "settle"]

Callback = Callable[[Any], object]


class SharedUpstream(asyncio.Protocol):
    """The pipelined connection of one identity. `send` never blocks; each reply goes to the callback of its command.

    A callback gets hiredis's reply: bytes, int, None, list, or a `hiredis.ReplyError`; on loss an UpstreamLost.
    """

    client_name = b"redisai-shared"
    """Its name in CLIENT LIST."""

    def __init__(self, busy_poll: BusyPoll | None = None) -> None:
        self._busy_poll = busy_poll
        self._reader = new_reader()
        self.waiting: deque[Callback] = deque()
        """The callbacks for the outstanding replies, in order."""
        self._loop = asyncio.get_running_loop()
        self._burst_data = b""  # of a burst whose replies have not all come
        self._out: list[bytes] = []  # commands of this iteration of the loop, written together at its end
        self.transport: Any = None
        self.closed = False

    @property
    def awaits_reply(self) -> bool:
        """Whether a reply is outstanding."""
        return bool(self.waiting)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)

    def eof_received(self) -> None:
        self.closed = True  # later commands use another connection

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._burst_data:
            self._parse(self._burst_data)
        error = UpstreamLost.under_way(exc)
        waiting, self.waiting = self.waiting, deque()
        for callback in waiting:
            try:
                callback(error)
            except Exception as failure:
                contain(callback, failure)

    def data_received(self, data: bytes) -> None:
        waiting = self.waiting
        if waiting and isinstance(waiting[0], BurstReplies) and not self._reader.has_data():
            data = self._take_alike(data)
        if data:
            self._parse(data)
        if self._busy_poll is not None and not waiting:
            self._busy_poll.answered()

    def _parse(self, data: bytes) -> None:
        reader, take = self._reader, self.waiting.popleft
        gets = reader.gets
        try:
            for at in range(0, len(data), STEP):
                reader.feed(data[at : at + STEP])
                while (reply := gets()) is not MORE:
                    callback = take()
                    try:
                        callback(reply)
                    except Exception as error:  # a bug of ours, which must not affect other clients of this stream
                        contain(callback, error)
        except hiredis.ProtocolError:
            self.transport.abort()

    def _take_alike(self, data: bytes) -> bytes:
        """Answer the first bursts whose replies are alike, without parsing. Returns: the data that must be parsed."""
        data = self._burst_data + data
        self._burst_data = b""
        waiting = self.waiting
        position = 0
        while waiting and isinstance(replies := waiting[0], BurstReplies) and not replies.begun:
            end = replies.end(data, position)
            if end == INCOMPLETE:
                self._burst_data = data[position:]
                return b""
            reply = replies.joint_reply(data, position, end) if end != UNLIKE else None
            if reply is None:
                break
            for _ in range(replies.count):
                waiting.popleft()
            position = end
            try:
                replies.answer_together(reply)
            except Exception as error:
                contain(replies, error)
        return data[position:]

    def send(self, data: bytes, callback: Callback) -> None:
        """Send one encoded command. Raises UpstreamLost if the connection is lost; then nothing was sent."""
        if self.closed:
            raise UpstreamLost("ERR upstream Redis connection lost")
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self.waiting.append(callback)

    def send_all(self, data: bytes, replies: BurstReplies) -> None:
        """Send the consecutive encoded commands in `data`. Raises: see `send`."""
        self.send(data, replies)
        self.waiting.extend(repeat(replies, replies.count - 1))

    def send_now(self, data: bytes, callback: Callback) -> None:
        """Like `send`, without waiting for other commands of this iteration of the loop."""
        if self._out or self.closed:
            self.send(data, callback)
            self.flush()
        else:
            self.waiting.append(callback)
            self.transport.write(data)
            if self._busy_poll is not None:
                self._busy_poll.asked()

    def flush(self) -> None:
        """Write what was sent in this iteration of the loop, for all clients in one system call."""
        out, self._out = self._out, []
        if out and not self.closed:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._busy_poll is not None:
                self._busy_poll.asked()

    def call(self, *argv: Any) -> Pending[Any]:
        """Send one command; the result is the reply, the error Redis's error."""
        return self.pipeline((argv,))[0]

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Pending[Any]]:
        """Send several commands in one write, each with its own Pending."""
        pendings: list[Pending[Any]] = []
        for argv in commands:
            pending: Pending[Any] = Pending()
            try:
                self.send(hiredis.pack_command(tuple(argv)), partial(settle, pending))
            except UpstreamError as error:
                pending.fail(error)
            pendings.append(pending)
        return pendings

    def close(self) -> None:
        """Close; waiting callbacks get an error."""
        if self.transport is not None:
            self.transport.close()


def settle(pending: Pending[Any], reply: Any) -> None:
    """Give a reply, or the error that it is, to whoever waits for it."""
    if isinstance(reply, Exception):
        pending.fail(redis_error(reply))
    else:
        pending.resolve(reply)
