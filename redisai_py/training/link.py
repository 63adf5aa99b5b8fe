"""The training's connection to Redis, which waits for a restarting Redis, but not forever."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from redisai_py.artifacts import Store
from redisai_py.artifacts.connection import AnyClient

__all__ = ["open_store"]

_TRIES = 45
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 1.0
_REPLY_S = 60.0
_CONNECT_S = 5.0


def open_store(client: AnyClient, prefix: str = "ai:", patient: bool = True) -> Store:
    """A Store, on a new connection for a URL, or on the client's own connections.

    patient: for a URL, retry for about 30 s while Redis is unreachable or loading; otherwise fail immediately.
    A reply that takes longer than 60 s also counts as a failure.
    """
    if not isinstance(client, str):
        return Store(client, prefix)
    tries = _TRIES if patient else 1
    link = redis.Redis.from_url(
        client,
        socket_timeout=_REPLY_S,
        socket_connect_timeout=_CONNECT_S,
        retry=Retry(ExponentialWithJitterBackoff(cap=_LONGEST_WAIT_S, base=_FIRST_WAIT_S), tries),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
    )
    return Store(link, prefix)
