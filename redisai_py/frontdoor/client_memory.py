"""Memory held for clients: unprocessed input and unread replies.

Both limits have Redis's names and effects (`client-query-buffer-limit`, `maxmemory-clients`): the client is
disconnected, and the log gives the reason in Redis's words. A client reports only large changes, so a busy server does
not pay for this.

Thread: the event loop's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from redisai_py.errors import RedisAIError
from redisai_py.ops.event_log import EventLog

__all__ = ["NOTED", "ClientMemory", "Holder"]

NOTED = 16 * 1024
"""A client that holds less than this need not report it."""


class Holder(Protocol):
    """A client's connection."""

    accounted: int
    """Bytes it last reported; written only by `ClientMemory`."""

    def end(self, error: RedisAIError) -> None:
        """Disconnect the client."""


class ClientMemory:
    """The memory of all clients.

    Args: client_query_buffer_limit: maximum unprocessed bytes of one client.
          maxmemory_clients: maximum bytes of all clients, including unread replies.   clients: may be disconnected.
    """

    def __init__(
        self,
        client_query_buffer_limit: int,
        maxmemory_clients: int,
        clients: Iterable[Holder],
        event_log: EventLog,
    ) -> None:
        self.total = 0
        self.evicted = 0
        self._client_query_buffer_limit = client_query_buffer_limit
        self._maxmemory_clients = maxmemory_clients
        self._clients = clients
        self._event_log = event_log

    def holds(self, client: Holder, unprocessed: int, unread: int) -> None:
        """Record the bytes a client holds; disconnects it, or a larger one, if a limit is exceeded."""
        self.total += unprocessed + unread - client.accounted
        client.accounted = unprocessed + unread
        if unprocessed > self._client_query_buffer_limit:
            limit = self._client_query_buffer_limit
            self._event_log.client_refused("Closing client that reached max query buffer length", limit_bytes=limit)
            self._end(client, f"query buffer length limit of {limit} bytes reached (client_query_buffer_limit)")
        while self.total > self._maxmemory_clients:
            largest = max(self._clients, key=lambda other: other.accounted, default=None)
            if largest is None or not largest.accounted:
                break
            limit = self._maxmemory_clients
            self._event_log.client_refused("Evicting client", bytes=largest.accounted, limit_bytes=limit)
            self._end(largest, f"client evicted: all clients together hold more than {limit} bytes (maxmemory_clients)")

    def left(self, client: Holder) -> None:
        """A client no longer holds anything."""
        self.total -= client.accounted
        client.accounted = 0

    def _end(self, client: Holder, why: str) -> None:
        self.evicted += 1
        self.left(client)
        client.end(RedisAIError(f"ERR {why}"))
