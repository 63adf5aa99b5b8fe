"""Replies from Redis that the server inspects before it relays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import hiredis

from redisai_py.pending import Pending
from redisai_py.resp.reader import split_replies

__all__ = ["ReplyCollector"]


class ReplyCollector:
    """Collects the raw replies of `count` commands, separated from messages in between."""

    def __init__(self, count: int, is_message: Callable[[Any], bool]) -> None:
        self.pending: Pending[list[bytes]] = Pending()
        self.raw: list[bytes] = []
        self._missing = count
        self._is_message = is_message
        self._chunks: list[bytes] = []
        self._objects: list[Any] = []

    def add(self, data: bytes, replies: list[Any]) -> None:
        """Add a chunk and the replies that it completed."""
        self._chunks.append(data)
        self._objects += replies
        for reply in replies:
            if not self._is_message(reply):
                self._missing += _pushes_within(reply) - 1

    @property
    def complete(self) -> bool:
        """Whether all replies have come."""
        return self._missing <= 0

    def split(self) -> list[bytes]:
        """Move the replies into `raw`. Returns: the messages."""
        joined = b"".join(self._chunks)
        parts = split_replies(joined, 0, len(self._objects))
        assert parts is not None
        messages: list[bytes] = []
        rest = iter(zip(parts, self._objects, strict=True))
        for part, reply in rest:
            if self._is_message(reply):
                messages.append(part)
            elif _pushes_within(reply):
                self.raw.append(_without_pushes(part, rest, messages))
            else:
                self.raw.append(part)
        return messages


def _pushes_within(reply: Any) -> int:
    """Redis 7.0 writes what a transaction publishes to its own client into the middle of EXEC's array, uncounted, so
    the array's last elements look like separate replies.
    """
    return sum(type(element) is hiredis.PushNotification for element in reply) if type(reply) is list else 0


def _without_pushes(array: bytes, rest: Iterator[tuple[bytes, Any]], messages: list[bytes]) -> bytes:
    """Whether this is an array that contains pushes, and that the next replies complete."""
    line = array.find(b"\r\n")
    count = int(array[1:line])
    elements = split_replies(array, line + 2, count)
    assert elements is not None
    kept: list[bytes] = []
    for element in chain(elements, (part for part, _ in rest)):
        (messages if element[:1] == b">" else kept).append(element)
        if len(kept) == count:
            break
    return array[: line + 2] + b"".join(kept)
