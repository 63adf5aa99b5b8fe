"""For tests that count every microsecond or look at exact replies: a bare client, and tensors as Redis holds them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import hiredis
import numpy as np

from redisai_py.store import codec
from redisai_py.tensor import Tensor
from tests.support import LOCALHOST

__all__ = ["Wire", "numbers", "read_back", "value"]


class Wire:
    """One connection. Replies are what hiredis makes of them: error replies are objects, also at the top level."""

    def __init__(self, port: int, protocol: int = 2) -> None:
        self.socket = socket.create_connection((LOCALHOST, port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        if protocol == 3:
            self("HELLO", "3")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, *argv: Any) -> Any:
        """Send one command and wait for its reply."""
        self.send(*argv)
        return self.receive()

    def send(self, *argv: Any) -> None:
        """Send one command; `receive` gives its reply."""
        self.socket.sendall(hiredis.pack_command(argv))

    def receive(self) -> Any:
        """The next reply."""
        while (reply := self._reader.gets()) is False:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        return reply

    def pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send all commands in one write and wait for all replies."""
        self.socket.sendall(b"".join(hiredis.pack_command(tuple(argv)) for argv in commands))
        return [self.receive() for _ in commands]

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def read_back(*segments: Any) -> Any:
    """What hiredis makes of the first reply, or command, in these bytes."""
    reader = hiredis.Reader()
    for segment in segments:
        reader.feed(segment)
    return reader.gets()


def value(number: float, rows: int = 1) -> bytes:
    """A FLOAT tensor (rows, 2) that holds one number throughout, as the value of a Redis key."""
    tensor = Tensor.from_numpy(np.full((rows, 2), number, np.float32))
    return codec.encode_header(tensor) + bytes(tensor.data)


def numbers(stored: bytes | None) -> list[float] | None:
    """The elements of a tensor in a Redis key, None for no key."""
    return None if stored is None else [float(x) for x in codec.decode_tensor(stored).numpy().ravel()]
