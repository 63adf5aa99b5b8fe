"""One client's own connection to Redis, for stateful commands: relayed and blocking commands, MULTI, subscriptions.

Bytes go both ways unchanged; replies are counted, not built. What was sent is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from redisai_py.errors import NoRoom, UpstreamRefused
from redisai_py.resp.reader import new_reader, read, split_replies
from redisai_py.resp.redis_errors import redis_error

__all__ = ["PrivateUpstream"]

_LARGE_REPLY = 64 * 1024
_MUCH = 4 * 1024 * 1024


class PrivateUpstream(asyncio.Protocol):
    """One client's own connection. `on_data(data, replies, whole)` gets every chunk as it came, the number of replies
    and pushes it completed, and whether it ended at a message boundary. `on_lost(why)` gets the end, None if it was
    simply lost. `on_flow(waits)` says whether much sent data still waits. `awaits_reply()` returns whether a reply is
    outstanding.
    """

    def __init__(
        self,
        on_data: Callable[[bytes, list[Any], bool], object],
        on_lost: Callable[[UpstreamRefused | None], object],
        on_flow: Callable[[bool], object] = lambda waits: None,
        awaits_reply: Callable[[], bool] = lambda: False,
    ) -> None:
        self._awaits_reply = awaits_reply
        self._reader = new_reader()
        self._whole = True  # the received data ended at a message boundary
        self._since: list[bytes] = []  # data received since the last boundary, and the replies it completed
        self._completed = 0
        self._skip = 0  # outstanding bytes of a large bulk reply, which hiredis need not see
        self._on_data: Callable[[bytes, list[Any], bool], object] = self._on_first_data
        self._on_later_data = on_data
        self._on_lost = on_lost
        self._on_flow = on_flow
        self.refused: UpstreamRefused | None = None
        self.tunnel: Callable[[bytes], object] | None = None  # replication: the data no longer consists of replies
        self.closed = False
        self.transport: Any = None
        self._held: list[bytes | memoryview] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_MUCH)

    @property
    def awaits_reply(self) -> bool:
        """Whether a reply is outstanding."""
        return self._awaits_reply()

    def eof_received(self) -> None:
        self._ended()  # immediately: the client's next data goes to another connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        if not self.closed:
            self.closed = True
            self._on_lost(self.refused)

    def pause_writing(self) -> None:
        self._on_flow(True)

    def resume_writing(self) -> None:
        self._on_flow(False)

    def _on_first_data(self, data: bytes, replies: list[Any], whole: bool) -> None:
        if replies and isinstance(replies[0], hiredis.ReplyError) and isinstance(redis_error(replies[0]), NoRoom):
            self.refused = UpstreamRefused(str(replies[0]))
            self.transport.abort()
        else:
            self._on_data = self._on_later_data
            self._on_data(data, replies, whole)

    def data_received(self, data: bytes) -> None:
        replies: list[Any] = []
        if self.tunnel is not None:
            self.tunnel(data)
            return
        view: bytes = data
        if self._skip:
            if len(view) < self._skip:
                self._skip -= len(view)
                self._on_data(data, replies, False)
                return
            view = view[self._skip :]
            self._skip = 0
            replies.append(b"")
        elif view[:1] == b"$" and self._whole and (rest := _large_bulk_rest(view)):
            self._skip = rest
            self._on_data(data, replies, False)
            return
        if view:
            values, self._whole = read(self._reader, view)
            replies += values
            if not self._whole:
                self._since.append(view)
                self._completed += len(values)
            elif self._since:
                self._since.clear()
                self._completed = 0
        self._on_data(data, replies, self._whole)

    def begun(self) -> bytes:
        """The received part of the incomplete message; everything before it is settled."""
        received = b"".join(self._since)
        settled = split_replies(received, 0, self._completed)
        assert settled is not None
        self._since, self._completed = [received[sum(map(len, settled)) :]], 0
        return self._since[0]

    def send(self, segments: list[bytes | memoryview]) -> None:
        """Write one or more encoded commands."""
        if self._held is not None:
            self._held += segments
            return
        for segment in segments:
            self.transport.write(segment)

    def hold(self) -> None:
        """Hold back data until `release`: a pipeline's commands then cost one system call, not one each."""
        self._held = []

    def release(self) -> None:
        """Write the data held back."""
        held, self._held = self._held, None
        if held and not self.transport.is_closing():
            self.transport.writelines(held)

    def close(self) -> None:
        """Close without waiting."""
        if self.transport is not None:
            self.transport.close()


def _large_bulk_rest(data: bytes) -> int:
    """Missing bytes, if `data` starts with the header of a large bulk string that it does not complete."""
    line = data.find(b"\r\n", 1, 24)
    if line < 0 or not data[1:line].isdigit():
        return 0
    size = int(data[1:line])
    return max(line + 4 + size - len(data), 0) if size >= _LARGE_REPLY else 0
