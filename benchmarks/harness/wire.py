"""A blocking client of a few lines: to prepare data, to check a reply before it is measured, to move large values.

And as much of HTTP as a program that is measured answers with: status 200 and a body of known length.
"""

from __future__ import annotations

import socket
from typing import Any

import hiredis

__all__ = ["Client", "HttpReplies", "Word", "encode", "http_call", "post"]

Word = str | bytes | int
_TIMEOUT_S = 60.0
_BODY_LENGTH = b"content-length:"


def encode(*words: Word) -> bytes:
    """A command's bytes."""
    return hiredis.pack_command(tuple(words))


def post(path: str, body: bytes) -> bytes:
    """A POST request's bytes."""
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class HttpReplies:
    """The replies on one connection."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; the body if it is whole. Raises: RuntimeError for any status but 200."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._received[:end].lower()
        if not head.startswith(b"http/1.1 200") or _BODY_LENGTH not in head:
            raise RuntimeError(f"an unexpected reply: {self._received[:200]!r}")
        length = int(head.split(_BODY_LENGTH, 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return None
        body, self._received = self._received[end + 4 :], b""
        return body


def http_call(port: int, request: bytes) -> tuple[bytes, int]:
    """The reply's body, and how many bytes the reply is with its head."""
    replies, received = HttpReplies(), 0
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(request)
        while data := connection.recv(1 << 18):
            received += len(data)
            if (body := replies.feed(data)) is not None:
                return body, received
    raise ConnectionError("the server closed the connection")


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
