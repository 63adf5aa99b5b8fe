"""A TCP proxy before Redis that holds back what Redis sends on some connections: makes sure of what a race may hit."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support import LOCALHOST

__all__ = ["SHARED", "HoldingProxy"]

SHARED = b"redisai-shared"
"""Sent, as its name, on the connection that AI commands share."""


class HoldingProxy:
    """Forwards bytes to Redis and back, and forgets nothing that was sent to Redis."""

    def __init__(self, port: int) -> None:
        self.asked = threading.Semaphore(0)
        """Released for each piece that is sent to Redis on a connection whose replies are held."""
        self._target = port
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._flowing = threading.Event()
        self._flowing.set()
        self._mark = b""
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def hold(self, mark: bytes = SHARED) -> None:
        """From now on no byte from Redis arrives on a connection on which `mark` has been, or is, sent to it."""
        self._mark = mark
        self._flowing.clear()

    def release(self) -> None:
        """What was held goes on, in order."""
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((LOCALHOST, self._target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += (client, server)
            sent = bytearray()
            for pump, source, sink in ((self._ask, client, server), (self._answer, server, client)):
                thread = threading.Thread(target=pump, args=(source, sink, sent))
                self._threads.append(thread)
                thread.start()

    def _ask(self, client: socket.socket, server: socket.socket, sent: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                sent += data
                self._forward(data, server)
                if self._is_held(sent):
                    self.asked.release()
        _shut(client, server)

    def _forward(self, data: bytes, server: socket.socket) -> None:
        server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket, sent: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self._is_held(sent):
                    self._flowing.wait(20)
                client.sendall(data)
        _shut(client, server)

    def _is_held(self, sent: bytearray) -> bool:
        return not self._flowing.is_set() and self._mark in sent

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        self.release()
        _shut(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join(20)
        for end in (self._listener, *self._sockets):
            end.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
