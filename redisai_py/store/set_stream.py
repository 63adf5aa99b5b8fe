"""The connection on which groups of tensors are written (`store.bulk`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from redisai_py.resp.reader import split_replies
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.containment import contain
from redisai_py.upstream.shared import SharedUpstream

__all__ = ["SetStream"]


class SetStream(SharedUpstream):
    """The connection for writing groups. The expected replies are known, so replies are compared, not parsed."""

    client_name = b"redisai-sets"

    def __init__(self, busy_poll: BusyPoll | None = None) -> None:
        super().__init__(busy_poll)
        self._asked: deque[tuple[bytes, int]] = deque()
        self._had = b""

    def ask(self, data: bytes, expected: bytes, count: int, answered: Callable[[Any], object]) -> None:
        """Send commands. `answered` gets None if their `count` replies are exactly `expected`, else a list of the
        replies; on loss an UpstreamError.
        """
        self._asked.append((expected, count))
        self.waiting.append(answered)
        self.transport.write(data)
        if self._busy_poll is not None:
            self._busy_poll.asked()

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            super().data_received(data)  # before the first group
            return
        data = self._had + data
        while self._asked and data:
            expected, count = self._asked[0]
            replies: list[Any] | None = None
            size = len(expected)
            if not data.startswith(expected):
                parts = None if expected.startswith(data) else split_replies(data, 0, count)
                if parts is None:
                    break
                size = sum(map(len, parts))
                self._reader.feed(data[:size])
                replies = [self._reader.gets() for _ in parts]
            self._asked.popleft()
            data = data[size:]
            answered = self.waiting.popleft()
            try:
                answered(replies)
            except Exception as error:  # a bug of ours, in one group
                contain(answered, error)
        self._had = data
        if self._busy_poll is not None and not self._asked:
            self._busy_poll.answered()

    def close(self) -> None:
        """Close; no further commands are sent."""
        self.closed = True
        super().close()
