"""The front doors of one server: what the supervisor gives each of them (clients, a line to its siblings, a page of
shared numbers), and what each does with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redisai_py.serve.acceptor import ADMITTED
from redisai_py.serve.door_page import DoorPage, Row

__all__ = ["AcceptedClients", "GroupMemory", "ProcessGroup", "SharedCores"]

_AT_ONCE = 64
_RETRY_S = 0.01
_ASK_AGAIN_S = 0.02
_POLLING_CORES = 2
"""Polling takes a core, and Redis and the clients need one."""
_HARDLY_BUSY = 0.25
"""Others that use less than this part of a core are not in the way."""
_LATELY_S = 0.05
_SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """A front door's place in the group.

    door: its number.   seat: its row in `door_page`.   siblings, arrivals: socket pairs' ends.
    managers: the same; it brings sockets to the manager of the engine processes. None: not on Linux.
    """

    door: int
    seat: int
    siblings: socket.socket
    arrivals: socket.socket
    door_page: DoorPage
    managers: socket.socket | None = None

    def others(self) -> list[Row]:
        """The rows of the other front doors."""
        return [row for row in self.door_page.rows() if row.door != self.door]


class GroupMemory:
    """Implements `redisai_py.frontdoor.client_memory.Others`. Args: note: sends a message to another front door."""

    def __init__(self, group: ProcessGroup, note: Callable[[dict[str, Any]], object]) -> None:
        self._group = group
        self._note = note
        self._asked_at = 0.0

    def hold(self, total: int, largest: int) -> int:
        """See `Others.hold`."""
        group = self._group
        group.door_page.hold(group.seat, total, largest)
        return sum(row.total for row in group.others())

    def evict_elsewhere(self, largest: int) -> bool:
        """See `Others.evict_elsewhere`."""
        most = max(self._group.others(), key=lambda row: row.largest, default=None)
        if most is None or most.largest <= largest:
            return False
        now = time.monotonic()
        if now - self._asked_at > _ASK_AGAIN_S:
            self._asked_at = now
            self._note({"kind": "evict", "to": most.door})
        return True


class SharedCores:
    """Whether the other front doors leave a core for this one to poll on (`BusyPoll`), and one for Redis and clients.

    Args: cores: of the machine, or as many as the server may use.   clock: monotonic, the same for all processes.
          cpu: CPU seconds of this process so far.
    """

    def __init__(
        self,
        group: ProcessGroup,
        cores: float,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._group = group
        self._left = cores - _POLLING_CORES + _HARDLY_BUSY
        self._clock = clock
        self._cpu = cpu
        self._looked_at = clock()
        self._ran = cpu()

    def wanted(self, computes: bool) -> bool:
        """Publish how busy this process was since the last call, and whether the others want the cores.

        Args: computes: a model is being run, here or in another process.
        """
        now, ran = self._clock(), self._cpu()
        share = (ran - self._ran) / max(now - self._looked_at, _SHORTEST_S)
        self._looked_at, self._ran = now, ran
        group = self._group
        group.door_page.busy(group.seat, max(share, 1.0) if computes else share, now)
        return sum(row.cores for row in group.others() if row.at > now - _LATELY_S) > self._left


class AcceptedClients:
    """Receives the clients that the supervisor has accepted.

    Args: connection: makes a protocol for a client.   refuse: tells a client that the server has too many clients.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: socket.socket,
        connection: Callable[[], Any],
        refuse: Callable[[socket.socket], object],
    ) -> None:
        line.setblocking(False)
        self._loop = loop
        self._line = line
        self._connection = connection
        self._refuse = refuse
        self._left = 0
        self._starting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start receiving clients."""
        self._loop.add_reader(self._line, self._receive)

    def close(self) -> None:
        """Stop receiving clients, after taking those that the supervisor has already passed on."""
        if self._line.fileno() >= 0:
            self._receive()
            self._loop.remove_reader(self._line)

    def left(self) -> None:
        """Report to the supervisor that a client has disconnected."""
        self._left += 1
        if self._left == 1:
            self._loop.call_soon(self._report)

    def _report(self) -> None:
        try:
            self._left -= self._line.send(bytes(self._left))
        except BlockingIOError:
            pass
        except OSError:  # the supervisor no longer counts
            return
        if self._left:
            self._loop.call_later(_RETRY_S, self._report)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                word, fds, _, _ = socket.recv_fds(self._line, 1, 1, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                word, fds = b"", []
            if not word:
                self._loop.remove_reader(self._line)
                return
            for fd in fds:
                self._begin(socket.socket(fileno=fd), word == ADMITTED)

    def _begin(self, client: socket.socket, admitted: bool) -> None:
        if not admitted:
            with client, contextlib.suppress(OSError):
                self._refuse(client)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._connect(client))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _connect(self, client: socket.socket) -> None:
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._connection, client)
        except OSError:  # it has disconnected already
            client.close()
            self.left()
