"""The Redis connection of artifacts: a blocking redis-py client, derived from any redis-py client; and its scans."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import redis
import redis.asyncio

from redisai_py.artifacts.errors import Conflict, Invalid

__all__ = ["AnyClient", "blocking_client", "scanned", "watching"]

T = TypeVar("T")
_TRIES = 200

AnyClient = redis.Redis | redis.asyncio.Redis | str
"""A redis-py client, blocking or asyncio (redisai_py's clients too), or a URL."""

_CLASSES: dict[type[Any], type[Any]] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}
_ASYNC_ONLY = {"retry", "parser_class", "oss_cluster_hostname", "maint_notifications_pool_handler"}


def blocking_client(client: AnyClient) -> redis.Redis:
    """A blocking client of the same Redis that returns bytes.

    It shares the pool of a blocking client, unless that client decodes replies. In that case, and for a URL or
    an asyncio client, it has its own pool with the same settings.

    Raises: Invalid: an asyncio client with a foreign connection class, such as a Sentinel's.
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


def scanned(link: redis.Redis, start: str, kind: str | None = None) -> Iterator[tuple[bytes, str]]:
    """The keys that begin with `start`, each with the rest of its name; a key may come twice.

    O(keys of the database), in steps that block no other client.

    Args: kind: only keys of this type of Redis.
    """
    pattern = "".join(f"\\{char}" if char in "\\*?[]^-" else char for char in start)
    begins = start.encode("utf-8", "surrogateescape")
    for key in link.scan_iter(match=f"{pattern}*", count=1000, _type=kind):
        yield key, key.removeprefix(begins).decode("utf-8", "surrogateescape")


def watching(link: redis.Redis, change: Callable[[Any], T], *keys: str, busy: str) -> T:
    """What `change` returns, which reads and queues commands in a pipeline that watches the keys.

    It is called again if a key changed before the commands were executed.

    Args:   change: calls `pipeline.multi()` between reading and queueing.   busy: what to say if that never ends.
    Raises: Conflict: the keys changed every time.   What `change` raises.
    """
    for attempt in range(_TRIES):
        with link.pipeline() as pipeline:
            try:
                pipeline.watch(*keys)  # type: ignore[no-untyped-call]  # redis-py's
                found = change(pipeline)
                pipeline.execute()
                return found
            except redis.WatchError:
                # At random, so that writers that collided do not collide again.
                time.sleep(random.uniform(0, min(0.05, 0.001 * (attempt + 1))))
    raise Conflict(f"{busy}; try again later")
