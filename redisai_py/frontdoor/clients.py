"""The connected clients: their number, their memory, and their departure at a shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from redisai_py.config import Config
from redisai_py.frontdoor.client_memory import NOTED, ClientMemory, Holder, Others
from redisai_py.frontdoor.output import Flusher
from redisai_py.frontdoor.services import Counters
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.turn import Turn
from redisai_py.ops.event_log import EventLog
from redisai_py.ops.tallies import ClientFigures

__all__ = ["NOTED", "Client", "Clients"]

_TOO_MANY = b"-ERR max number of clients reached\r\n"


class Client(Holder, Protocol):
    """A client's connection."""

    transport: Any
    turn: Turn
    session: Session


class Clients:
    """Thread: the event loop's."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        event_log: EventLog,
        others: Others | None = None,
    ) -> None:
        self.flusher = Flusher(loop.call_soon)
        self._connected: set[Client] = set()
        self.memory = ClientMemory(
            config.client_query_buffer_limit, config.maxmemory_clients, self._connected, event_log, others
        )
        self.on_left: Callable[[], object] | None = None
        """Called for each client that was admitted and has left."""
        self._max_clients = config.max_clients
        self._counters = counters
        self._event_log = event_log
        self._all_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._connected)

    def figures(self) -> ClientFigures:
        """Number of clients, and of those with their own connection to Redis."""
        private = sum(client.session.relay.upstream is not None for client in self._connected)
        return ClientFigures(len(self._connected), private)

    def joined(self, client: Client) -> None:
        """A client connected."""
        self._counters.accepted += 1
        if len(self._connected) >= self._max_clients:
            self._report_refusal()
            client.transport.write(_TOO_MANY)
            client.transport.close()
            return
        self._connected.add(client)

    def refuse(self, client: socket.socket) -> None:
        """The supervisor found that a client is one too many. Raises OSError."""
        self._counters.accepted += 1
        self._report_refusal()
        client.setblocking(False)
        client.send(_TOO_MANY)

    def _report_refusal(self) -> None:
        self._counters.refused += 1
        self._event_log.client_refused("max_clients are connected", max_clients=self._max_clients)

    def left(self, client: Client) -> None:
        """A client has left."""
        self._connected.discard(client)
        self.memory.left(client)
        if not self._connected:
            self._all_left.set()
        if self.on_left is not None:
            self.on_left()

    async def drain(self, timeout_s: float) -> None:
        """Let running commands finish, for at most `timeout_s`; then close every client."""
        for client in list(self._connected):
            client.transport.pause_reading()
            client.turn.leave_when_idle()
        if self._connected:
            self._all_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), timeout_s)
        for client in list(self._connected):
            client.transport.abort()
