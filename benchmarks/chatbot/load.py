"""Conversations: each on a connection of its own, each saying its next message when the last one is answered.

One thread and epoll for all of them. Requests are encoded beforehand; of a reply no more is looked at than where it
ends and whether it is an error.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis
from harness.load import CpuClock, Sample, latency_sample
from harness.servers import Target

__all__ = ["Replies", "RespReplies", "ask", "converse"]

_GIVE_UP_S = 20.0


class Replies(Protocol):
    """The replies on one connection."""

    def feed(self, data: bytes) -> Any:
        """Take bytes; the reply if it is whole now, else None. Raises: RuntimeError for an error."""


class RespReplies:
    """Of our server: arrays without errors."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()

    def feed(self, data: bytes) -> list[Any] | None:
        """Take bytes; the array if it is whole."""
        self._reader.feed(data)
        reply = self._reader.gets()
        if reply is False:
            return None
        if not isinstance(reply, list) or any(isinstance(item, Exception) for item in reply):
            raise RuntimeError(f"an unexpected reply: {reply!r}")
        return reply


def ask(target: Target, requests: Sequence[bytes], replies: Replies) -> list[Any]:
    """The replies to a few requests, one after the other on one connection."""
    found = []
    with socket.create_connection(("127.0.0.1", target.port), timeout=_GIVE_UP_S) as connection:
        for request in requests:
            connection.sendall(request)
            while (reply := replies.feed(_received(connection))) is None:
                pass
            found.append(reply)
    return found


def converse(
    target: Target, conversations: Sequence[Sequence[bytes]], replies: Callable[[], Replies], seconds: float
) -> Sample:
    """Let every conversation say its messages, again from the first after the last, for about so many seconds."""
    connections = {}
    for requests in conversations:
        connection = socket.create_connection(("127.0.0.1", target.port), timeout=_GIVE_UP_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = _Conversation(connection, requests, replies())
    try:
        return _measure(target, connections, seconds)
    finally:
        for conversation in connections.values():
            conversation.connection.close()


def _measure(target: Target, conversations: dict[int, _Conversation], seconds: float) -> Sample:
    poll = select.epoll()
    latencies: list[float] = []
    now = time.perf_counter
    try:
        for fd in conversations:
            poll.register(fd, select.EPOLLIN)
        clock = CpuClock(target)
        started = now()
        until = started + seconds
        for conversation in conversations.values():
            conversation.say(now())
        open_ones = len(conversations)
        while open_ones:
            events = poll.poll(_GIVE_UP_S)
            if not events:
                raise TimeoutError("the server does not answer")
            for fd, _ in events:
                conversation = conversations[fd]
                if conversation.replies.feed(_received(conversation.connection)) is None:
                    continue
                answered = now()
                latencies.append(answered - conversation.said)
                if answered < until:
                    conversation.say(answered)
                else:
                    open_ones -= 1
        return clock.add_to(latency_sample(latencies, now() - started))
    finally:
        poll.close()


class _Conversation:
    """One connection and what is said on it. said: when the last message was."""

    __slots__ = ("_next", "_requests", "connection", "replies", "said")

    def __init__(self, connection: socket.socket, requests: Sequence[bytes], replies: Replies) -> None:
        self.connection = connection
        self.replies = replies
        self.said = 0.0
        self._requests = requests
        self._next = 0

    def say(self, at: float) -> None:
        self.said = at
        self.connection.sendall(self._requests[self._next])
        self._next = (self._next + 1) % len(self._requests)


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
