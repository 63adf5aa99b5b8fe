"""Accepts connections for several front doors and passes each to the one with the fewest. Runs in the supervisor.

A connection is sent to a front door over a socket pair (SCM_RIGHTS) with one byte: `ADMITTED`, or `REFUSED` if the
server has too many clients. The front door sends one byte back for each admitted client that disconnects. While no
front door is up, connections wait in the queue of the listening socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

__all__ = ["ADMITTED", "REFUSED", "Acceptor", "Arrivals"]

ADMITTED = b"a"
REFUSED = b"r"
_AT_ONCE = 64
"""Connections accepted in one turn of the event loop."""
_RETRY_S = 0.02
_COUNT_BYTES = 65536

log = structlog.get_logger()


@dataclass(eq=False)
class Arrivals:
    """The supervisor's end of the socket pair to one front door.

    clients: number of its clients.   serving, ready, retired: its last reported state.   silent: it may hang.
    """

    line: socket.socket
    clients: int = 0
    ready: bool = False
    serving: bool = False
    retired: bool = False
    silent: bool = False

    def __post_init__(self) -> None:
        self.line.setblocking(False)

    @property
    def rank(self) -> int:
        """0: gets no connections. Otherwise the higher the better: 3 if ready, less if it only serves or is silent."""
        if self.retired or not self.serving:
            return 0
        return 1 + self.ready + (not self.silent)


class Acceptor:
    """Args: listeners: bound and listening.   max_clients: of all front doors together. Thread: the event loop's."""

    def __init__(self, listeners: Sequence[socket.socket], max_clients: int) -> None:
        self._listeners = listeners
        self._max_clients = max_clients
        self._doors: list[Arrivals] = []
        self._accepting = False
        self._held: socket.socket | None = None  # accepted, but not passed on yet
        self._looked_again = False  # since the limit on clients was reached

    def join(self, arrivals: Arrivals) -> None:
        """Add a front door whose process was started; it gets connections once it is `serving`."""
        self._doors.append(arrivals)
        asyncio.get_running_loop().add_reader(arrivals.line, self._count, arrivals)

    def leave(self, arrivals: Arrivals) -> None:
        """Remove a front door whose process has ended."""
        if arrivals in self._doors:
            self._doors.remove(arrivals)
            asyncio.get_running_loop().remove_reader(arrivals.line)
            arrivals.line.close()
            self.look()

    def look(self) -> None:
        """Call this when a front door starts or stops serving: accept while at least one serves."""
        loop = asyncio.get_running_loop()
        wanted = any(door.rank for door in self._doors)
        if wanted and self._held is not None:
            held, self._held = self._held, None
            if not self._pass_on(held):
                self._held = held
                self._pause()
                return
        if wanted and not self._accepting:
            for listener in self._listeners:
                loop.add_reader(listener, self._accept, listener)
        elif self._accepting and not wanted:
            for listener in self._listeners:
                loop.remove_reader(listener)
        self._accepting = wanted

    def close(self) -> None:
        """Stop accepting."""
        for door in self._doors:
            door.retired = True
        self.look()

    def _count(self, arrivals: Arrivals) -> None:
        """Subtract the clients that have disconnected from a front door."""
        with contextlib.suppress(OSError):
            arrivals.clients -= len(arrivals.line.recv(_COUNT_BYTES))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._accepting:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # most likely too many open files
                log.error("cannot accept connections", error=error.strerror)
                self._pause()
                return
            if not self._pass_on(connection):
                self._held = connection
                self._pause()
                return

    def _pass_on(self, connection: socket.socket) -> bool:
        """Pass it to the front door with the fewest clients, or to the next one if that cannot take it.

        Returns: False if no front door can take it now.
        """
        admitted = sum(door.clients for door in self._doors) < self._max_clients
        looked_again, self._looked_again = self._looked_again, not admitted
        if not admitted and not looked_again:  # a client that has just left may not be reported yet
            return False
        for door in sorted(self._doors, key=lambda door: (-door.rank, door.clients)):
            if not door.rank:
                break
            try:
                socket.send_fds(door.line, [ADMITTED if admitted else REFUSED], [connection.fileno()])
            except OSError:  # it does not read, or it has just ended
                continue
            door.clients += admitted
            connection.close()
            return True
        return False

    def _pause(self) -> None:
        """Stop accepting for a moment; connections wait in the queues of the listening sockets."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
        self._accepting = False
        loop.call_later(_RETRY_S, self.look)
