"""A TCP proxy between a client and a server on this machine, often between a front door and Redis: it makes sure of
what a bad network, or another client at the right moment, may do.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable

from tests.support import LOCALHOST
from tests.wire import Wire

__all__ = ["SHARED", "Proxy"]

SHARED = b"redisai-shared"
"""Sent, as its name, on the connection that AI commands share."""
_RESET = struct.pack("ii", 1, 0)
_LONGEST_HOLD_S = 20


class _Line:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.sent = bytearray()
        self.ends = (client, server)


class Proxy:
    """Forwards bytes both ways until told otherwise. "Sent" is what the client sends, "received" what it receives.

    context: speak TLS to the client.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._context = context
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://{LOCALHOST}:{self.port}"
        self.turns: list[str] = []
        """Whose turn it was, one after the other: "sent" or "received"."""
        self.asked = threading.Semaphore(0)
        """Released for each piece that is sent on a line that is held."""
        self.holding = threading.Event()
        """Something was received on a held line, and does not go on."""
        self.cut_happened = threading.Event()
        self.seen = 0
        """How often what `lose` is about was sent."""
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._mark = b""  # of the lines that are held
        self._flowing = threading.Event()
        self._flowing.set()
        self._allowance: int | None = None  # bytes that may still be received
        self._cutting = True  # what happens when they have been; else all lines are held
        self._refusing = False
        self._lost = b""  # the mark of what is lost, and how often still
        self._losses = 0
        self._command = b""
        self._act: Callable[[], object] | None = None
        self._bare: Wire | None = None
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is received --------------------------------------------------------------------------------------------

    def hold(self, mark: bytes = b"") -> None:
        """From now on nothing is received on lines on which `mark` has been, or is, sent; what is sent arrives."""
        self.holding.clear()
        self._mark = mark
        self._flowing.clear()

    def release(self) -> None:
        """What was held goes on, in order."""
        self._flowing.set()

    def hold_after(self, count: int) -> None:
        """Let `count` more bytes be received in all, then hold all lines."""
        self.holding.clear()
        with self._lock:
            self._allowance, self._cutting = count, False

    def cut_after(self, count: int) -> None:
        """Let `count` more bytes be received in all, then cut every line."""
        self.cut_happened.clear()
        with self._lock:
            self._allowance, self._cutting = count, True

    def cut(self) -> None:
        """Cut every line now."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            for end in line.ends:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
        self._flowing.set()
        self.cut_happened.set()

    def refuse(self, refusing: bool) -> None:
        """Whether new connections are closed at once."""
        self._refusing = refusing

    # -- what is sent ------------------------------------------------------------------------------------------------

    def lose(self, mark: bytes, losses: int) -> None:
        """From now on count what is sent with `mark` in it, and lose the replies to the first `losses`: the request
        arrives, but the client's connection is cut.
        """
        with self._lock:
            self._lost, self._losses, self.seen = mark, losses, 0

    def before(self, command: str, act: Callable[[], object]) -> None:
        """Call `act` once: before the next command of that name goes to Redis, and after those sent before it."""
        if self._bare is None:
            self._bare = Wire(self._target)
            self._bare("CLIENT", "SETNAME", "proxy")  # tests kill connections that have no name
        self._command = b"\r\n$%d\r\n%b\r\n" % (len(command), command.encode())
        self._act = act

    @property
    def acted(self) -> bool:
        """Whether what `before` asked for has happened."""
        return self._act is None

    # -- lines -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            line = _Line(client, socket.create_connection((LOCALHOST, self._target)))
            for end in line.ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._lines.append(line)
            for pump in (self._send, self._receive):
                thread = threading.Thread(target=pump, args=(line,))
                self._threads.append(thread)
                thread.start()

    def _send(self, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := line.client.recv(65536):
                self._note("sent")
                line.sent += data
                lost = self._is_lost(data)
                if lost:
                    _shut(line.client)  # before the request goes on: its reply finds nobody
                self._forward(data, line.server)
                if lost:
                    _shut(line.server)
                    return
                if self._is_held(line):
                    self.asked.release()
            line.server.shutdown(socket.SHUT_WR)

    def _forward(self, data: bytes, server: socket.socket) -> None:
        at = data.find(self._command) if self._act is not None else -1
        if self._act is not None and at >= 0:
            assert self._bare is not None
            start = data.rindex(b"*", 0, at)
            server.sendall(data[:start])
            # Redis answers all that it finds in one look at its connections when it has executed all of it.
            self._bare("PING")
            act, self._act = self._act, None
            act()
            data = data[start:]
        server.sendall(data)

    def _receive(self, line: _Line) -> None:
        with contextlib.suppress(OSError):
            while data := line.server.recv(65536):
                self._note("received")
                if self._is_held(line):
                    self._wait()
                allowed, last = self._allowed(data)
                line.client.sendall(allowed)
                if last and self._cutting:
                    self.cut()
                    return
                if last:
                    self.hold()
                    self._wait()
                    line.client.sendall(data[len(allowed) :])
            line.client.shutdown(socket.SHUT_WR)

    def _wait(self) -> None:
        self.holding.set()
        self._flowing.wait(_LONGEST_HOLD_S)

    def _note(self, turn: str) -> None:
        with self._lock:
            if self.turns[-1:] != [turn]:
                self.turns.append(turn)

    def _is_held(self, line: _Line) -> bool:
        return not self._flowing.is_set() and self._mark in line.sent

    def _is_lost(self, data: bytes) -> bool:
        with self._lock:
            if not self._lost or self._lost not in data:
                return False
            self.seen += 1
            self._losses -= 1
            return self._losses >= 0

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
        _shut(self._listener)
        self._threads[0].join(20)
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for end in (self._listener, *(end for line in self._lines for end in line.ends)):
            end.close()
        if self._bare is not None:
            self._bare.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
