"""A TCP proxy that loses replies: a request reaches the server, but the client's connection is cut."""

from __future__ import annotations

import socket
import ssl
import threading

LOCALHOST = "127.0.0.1"


class Proxy:
    """Forwards bytes between clients and a server on this machine, over TLS to the client if a context is given."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._context = context
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._mark = b""
        self._losses = 0
        self.seen = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lose(self, mark: bytes, losses: int) -> None:
        """From now on count requests that contain `mark`, and lose the replies to the first `losses` of them."""
        with self._lock:
            self._mark, self._losses, self.seen = mark, losses, 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection((LOCALHOST, self._target))
            self._sockets += (client, server)
            for source, sink, is_request in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, is_request))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_request and self._is_lost(data):
                    _close(source)  # before the request goes on: its reply finds nobody
                    sink.sendall(data)
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            _close(end)

    def _is_lost(self, data: bytes) -> bool:
        with self._lock:
            if not self._mark or self._mark not in data:
                return False
            self.seen += 1
            self._losses -= 1
            return self._losses >= 0

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        _close(self._listener)
        for end in self._sockets:
            _close(end)
        for thread in self._threads:
            thread.join(20)


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        end.close()
