"""A blocking client of a few lines: to prepare data, to check a reply before it is measured, to move large values."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

__all__ = ["Client", "Word", "encode"]

Word = str | bytes | int
_TIMEOUT_S = 60.0


def encode(*words: Word) -> bytes:
    """A command's bytes."""
    return hiredis.pack_command(tuple(words))


class Client:
    """One connection to 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, *words: Word) -> Any:
        """The reply. Raises hiredis.ReplyError for an error, also for one inside an array."""
        return self.pipeline(encode(*words), 1)[0]

    def pipeline(self, data: bytes, replies: int) -> list[Any]:
        """Send bytes that hold `replies` commands; their replies."""
        self.socket.sendall(data)
        found: list[Any] = []
        while len(found) < replies:
            reply = self._reader.gets()
            if reply is False:
                received = self.socket.recv(1 << 20)
                if not received:
                    raise ConnectionError("the server closed the connection")
                self._reader.feed(received)
                continue
            _raise_errors(reply)
            found.append(reply)
        return found

    def raw_reply_length(self, data: bytes, replies: int) -> int:
        """How many bytes the replies to `data` are, which must hold `replies` commands that succeed."""
        self.socket.sendall(data)
        found = length = 0
        while found < replies:
            received = self.socket.recv(1 << 20)
            if not received:
                raise ConnectionError("the server closed the connection")
            length += len(received)
            self._reader.feed(received)
            while (reply := self._reader.gets()) is not False:
                _raise_errors(reply)
                found += 1
        return length


def _raise_errors(reply: Any) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    if isinstance(reply, list):
        for item in reply:
            _raise_errors(item)
