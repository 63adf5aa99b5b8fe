"""Memory held for clients: unprocessed input and unread replies.

Both bounds are Redis's own, by name and by what is done when one is passed (`client-query-buffer-limit`,
`maxmemory-clients`): the client is disconnected, and the log says why in Redis's words. A client reports only when much
has changed, so a busy server does not pay for this.

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
    """Bytes that it was last reported to hold; written by `ClientMemory` alone."""

    def end(self, error: RedisAIError) -> None:
        """Disconnect the client."""


class ClientMemory:
    """The account of all clients.

    Args: client_query_buffer_limit: bytes that one client may have sent and not had processed.
          maxmemory_clients: bytes of all clients, unread replies included.   clients: those that may be disconnected.
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
        """A client holds this many bytes now; it may be disconnected for it, and so may a larger one."""
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
        """A client holds nothing any more."""
        self.total -= client.accounted
        client.accounted = 0

    def _end(self, client: Holder, why: str) -> None:
        self.evicted += 1
        self.left(client)
        client.end(RedisAIError(f"ERR {why}"))
