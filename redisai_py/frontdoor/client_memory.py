"""Memory held for clients: unprocessed input and unread replies.

Both limits have Redis's names and effects (`client-query-buffer-limit`, `maxmemory-clients`): the client is
disconnected, and the log gives the reason in Redis's words. A client reports only large changes, so a busy server does
not pay for this.

Thread: the event loop's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from redisai_py.config import MOST_PROCESSES
from redisai_py.errors import RedisAIError
from redisai_py.ops.event_log import EventLog

__all__ = ["NOTED", "ClientMemory", "Holder", "Others"]

NOTED = 16 * 1024
"""A client that holds less than this need not report it."""


class Holder(Protocol):
    """A client's connection."""

    accounted: int
    """Bytes it last reported; written only by `ClientMemory`."""

    def end(self, error: RedisAIError) -> None:
        """Disconnect the client."""


class Others(Protocol):
    """What other front doors of the same server hold."""

    def hold(self, total: int, largest: int) -> int:
        """Say what this one holds, and how much its largest client; the bytes that the others hold."""

    def evict_elsewhere(self, largest: int) -> bool:
        """Have another one disconnect a client that holds more than this; False if there is none."""


class ClientMemory:
    """The memory of all clients.

    Args: client_query_buffer_limit: maximum unprocessed bytes of one client.
          maxmemory_clients: maximum bytes of all clients, including unread replies.   clients: may be disconnected.
          others: None if this process is the whole server.
    """

    def __init__(
        self,
        client_query_buffer_limit: int,
        maxmemory_clients: int,
        clients: Iterable[Holder],
        event_log: EventLog,
        others: Others | None = None,
    ) -> None:
        self.total = 0
        self.evicted = 0
        self._client_query_buffer_limit = client_query_buffer_limit
        self._maxmemory_clients = maxmemory_clients
        self._clients = clients
        self._event_log = event_log
        self._others = others

    def holds(self, client: Holder, unprocessed: int, unread: int) -> None:
        """Record the bytes a client holds; disconnects it, or a larger one, if a limit is exceeded."""
        self.total += unprocessed + unread - client.accounted
        client.accounted = unprocessed + unread
        if unprocessed > self._client_query_buffer_limit:
            limit = self._client_query_buffer_limit
            self._event_log.client_refused("Closing client that reached max query buffer length", limit_bytes=limit)
            self._end(client, f"query buffer length limit of {limit} bytes reached (client_query_buffer_limit)")
        others_hold = self._tell()
        while self.total + others_hold > self._maxmemory_clients:
            largest = self._largest()
            held = largest.accounted if largest is not None else 0
            if largest is None or (self._others is not None and self._others.evict_elsewhere(held)):
                break
            self._evict(largest)
            others_hold = self._tell()

    def evict_largest(self) -> None:
        """Disconnect the client that holds most. Another front door asks for it, because all together hold too much."""
        largest = self._largest()
        if largest is not None:
            self._evict(largest)

    def left(self, client: Holder) -> None:
        """A client no longer holds anything."""
        if client.accounted:
            self.total -= client.accounted
            client.accounted = 0
            self._tell()

    def _tell(self) -> int:
        if self._others is None:
            return 0
        # Where all together hold too much, one of them holds this much.
        largest = self._largest() if self.total > self._maxmemory_clients // MOST_PROCESSES else None
        return self._others.hold(self.total, largest.accounted if largest is not None else 0)

    def _largest(self) -> Holder | None:
        largest = max(self._clients, key=lambda other: other.accounted, default=None)
        return largest if largest is not None and largest.accounted else None

    def _evict(self, client: Holder) -> None:
        limit = self._maxmemory_clients
        self._event_log.client_refused("Evicting client", bytes=client.accounted, limit_bytes=limit)
        self._end(client, f"client evicted: all clients together hold more than {limit} bytes (maxmemory_clients)")

    def _end(self, client: Holder, why: str) -> None:
        self.evicted += 1
        self.left(client)
        client.end(RedisAIError(f"ERR {why}"))
