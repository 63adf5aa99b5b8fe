"""A TCP proxy before Redis that stalls what Redis sends, cuts connections in mid-reply, and refuses new ones."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from tests.support import LOCALHOST

__all__ = ["CuttingProxy"]

_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Forwards bytes to Redis and back until told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ends: list[socket.socket] = []
        self._allowance: int | None = None  # bytes that Redis may still send
        self._cutting = True  # what happens when they have been sent; else they stall
        self._refusing = False
        self.cut_happened = threading.Event()
        self.holding = threading.Event()  # a reply has come since `stall`, and does not go on
        self._flowing = threading.Event()
        self._flowing.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """For a front door."""
        return f"redis://{LOCALHOST}:{self.port}"

    def stall(self) -> None:
        """Redis's replies do not arrive any more; what is sent to it does."""
        self.holding.clear()
        self._flowing.clear()

    def flow(self) -> None:
        """They arrive again."""
        self._flowing.set()

    def cut_after(self, count: int) -> None:
        """Let Redis send `count` more bytes in all, then cut every connection."""
        self.cut_happened.clear()
        with self._lock:
            self._allowance, self._cutting = count, True

    def stall_after(self, count: int) -> None:
        """Let Redis send `count` more bytes in all, then stall."""
        self.holding.clear()
        with self._lock:
            self._allowance, self._cutting = count, False

    def cut(self) -> None:
        """Cut every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
        self._flowing.set()
        self.cut_happened.set()

    def refuse(self, refusing: bool) -> None:
        """Whether new connections are closed at once."""
        self._refusing = refusing

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            server = socket.create_connection((LOCALHOST, self._target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
                self._ends += (client, server)
            for pump, source, sink in ((self._ask, client, server), (self._answer, server, client)):
                thread = threading.Thread(target=pump, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not self._flowing.is_set():
                    self.holding.set()
                    self._flowing.wait(20)
                allowed, last = self._allowed(data)
                client.sendall(allowed)
                if last and self._cutting:
                    self.cut()
                    return
                if last:
                    self.stall()
                    self.holding.set()
                    self._flowing.wait(20)
                    client.sendall(data[len(allowed) :])
            client.shutdown(socket.SHUT_WR)

    def _allowed(self, data: bytes) -> tuple[bytes, bool]:
        with self._lock:
            if self._allowance is None:
                return data, False
            data = data[: self._allowance]
            self._allowance -= len(data)
            if self._allowance:
                return data, False
            self._allowance = None
            return data, True

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for end in self._ends:
            end.close()
