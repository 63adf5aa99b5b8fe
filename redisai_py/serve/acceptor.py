"""Accepts for several front doors, and passes each connection to the one that has fewest. In the supervisor.

A connection goes over a line as one byte with the socket: `ADMITTED`, or `REFUSED` where one more would be too many.
For each admitted client that has left, one byte comes back. Where no front door is up, connections wait in the queue of
the listening socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

import structlog

__all__ = ["ADMITTED", "REFUSED", "Acceptor", "Arrivals"]

ADMITTED = b"a"
REFUSED = b"r"
_AT_ONCE = 64
"""Connections accepted before other work gets its turn."""
_RETRY_S = 0.02
_COUNT_BYTES = 65536

log = structlog.get_logger()


class Arrivals:
    """The supervisor's end of one front door's line.

    clients: how many it has.   serving, ready, retired: what it said of itself.   silent: it may hang.
    """

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self.line = line
        self.clients = 0
        self.ready = False
        self.serving = False
        self.retired = False
        self.silent = False

    @property
    def rank(self) -> int:
        """0 for a front door that may get none; 3 for one that is ready, less for one that only serves or is silent."""
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
        self._held: socket.socket | None = None  # accepted, and waits
        self._looked_again = False  # since the limit on clients was reached

    def join(self, arrivals: Arrivals) -> None:
        """A front door's process was started; it gets connections once it is `serving`."""
        self._doors.append(arrivals)
        asyncio.get_running_loop().add_reader(arrivals.line, self._count, arrivals)

    def leave(self, arrivals: Arrivals) -> None:
        """A front door's process has ended, and so have its connections."""
        if arrivals in self._doors:
            self._doors.remove(arrivals)
            asyncio.get_running_loop().remove_reader(arrivals.line)
            arrivals.line.close()
            self.look()

    def look(self) -> None:
        """Some front door serves now, or does not any more: accept if one does."""
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
        """Accept no more."""
        for door in self._doors:
            door.retired = True
        self.look()

    def _count(self, arrivals: Arrivals) -> None:
        """Clients of a front door have left."""
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
            except OSError as error:  # out of files, most likely
                log.error("cannot accept connections", error=error.strerror)
                self._pause()
                return
            if not self._pass_on(connection):
                self._held = connection
                self._pause()
                return

    def _pass_on(self, connection: socket.socket) -> bool:
        """Give it to the front door with the fewest clients; to the next one if that does not take it.

        Returns: False if none takes it now.
        """
        admitted = sum(door.clients for door in self._doors) < self._max_clients
        looked_again, self._looked_again = self._looked_again, not admitted
        if not admitted and not looked_again:  # somebody may just have left, which the front doors tell a little later
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
        """Look again a little later; until then connections wait in the queues of the listening sockets."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
        self._accepting = False
        loop.call_later(_RETRY_S, self.look)
