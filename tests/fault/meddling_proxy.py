"""A TCP proxy before Redis that lets something happen there between two commands of a front door."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tests.fault.holding_proxy import HoldingProxy
from tests.wire import Wire

__all__ = ["MeddlingProxy"]


class MeddlingProxy(HoldingProxy):
    """Forwards bytes to Redis and back."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._bare = Wire(port)
        self._bare("CLIENT", "SETNAME", "meddling-proxy")  # tests kill connections that have no name
        self._command = b""
        self._act: Callable[[], object] | None = None

    def before(self, command: str, act: Callable[[], object]) -> None:
        """Call `act` once: before the next command of that name goes to Redis, and after those sent before it."""
        self._command = b"\r\n$%d\r\n%b\r\n" % (len(command), command.encode())
        self._act = act

    @property
    def acted(self) -> bool:
        """Whether what `before` asked for has happened."""
        return self._act is None

    def _forward(self, data: bytes, server: socket.socket) -> None:
        at = data.find(self._command) if self._act is not None else -1
        if self._act is not None and at >= 0:
            start = data.rindex(b"*", 0, at)
            server.sendall(data[:start])
            # Redis answers all that it finds in one look at its connections when it has executed all of it.
            self._bare("PING")
            act, self._act = self._act, None
            act()
            data = data[start:]
        server.sendall(data)

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        super().close()
        self._bare.close()
