"""The connection to Redis that artifacts use: redis-py's, whatever client of redis-py it was taken from."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from redisai_py.artifacts.errors import Invalid

__all__ = ["AnyClient", "plain", "watch"]

AnyClient = redis.Redis | redis.asyncio.Redis | str
"""A client of redis-py, blocking or asyncio; ours is one of these, too. Or a URL."""

_CLASSES: dict[type[Any], type[Any]] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}
_ASYNC_ONLY = {"retry", "parser_class", "oss_cluster_hostname", "maint_notifications_pool_handler"}


def plain(client: AnyClient) -> redis.Redis:
    """A blocking client of the same Redis that gives replies as bytes.

    It shares the connection pool of a blocking client, unless that decodes replies: then it has a pool of its own with
    the same settings, as it has for a URL and for an asyncio client.

    Raises: Invalid: an asyncio client of another kind than redis-py's own, say one of a Sentinel.
    """
    if isinstance(client, str):
        return redis.Redis.from_url(client, socket_timeout=None)
    pool: Any = client.connection_pool
    settings = pool.connection_kwargs
    if isinstance(client, redis.Redis):
        if not settings.get("decode_responses"):
            return redis.Redis(connection_pool=pool)
        return redis.Redis.from_pool(
            type(pool)(connection_class=pool.connection_class, **{**settings, "decode_responses": False})
        )
    made_of = _CLASSES.get(pool.connection_class)
    if made_of is None:
        raise Invalid(f"{pool.connection_class.__name__} has no blocking twin: give a blocking client of this Redis")
    kept = {name: value for name, value in settings.items() if name not in _ASYNC_ONLY}
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=made_of, **{**kept, "decode_responses": False}))


def watch(pipeline: Any, *keys: str) -> None:
    """WATCH: what follows is sent at once, until `multi()`."""
    pipeline.watch(*keys)
