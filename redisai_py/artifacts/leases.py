"""Leases: a running writer protects blobs from `collect` that no version lists yet.

One sorted set holds, for each (blob, writer), the time until which the blob is leased. It has no expiry, because a full
Redis may evict keys that have one. The rule that makes collection safe, with T the time at which it started:

    what was leased at T or later is kept.

A writer leases a blob before it checks whether the blob exists, and ends the lease after its pointer is written, by
setting the end to now. So at the moment of deletion there are three cases: the blob is leased since T; or its pointer
was written before T and was found; or the writer comes later and finds the blob absent. If a writer is killed, its
lease ends after an hour. All times are Redis's own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import redis

from redisai_py.artifacts.digest import hex_of
from redisai_py.artifacts.errors import Conflict
from redisai_py.artifacts.names import Keys

__all__ = ["HOLD_S", "Lease", "leased", "redis_time"]

HOLD_S = 3600.0
"""Seconds a lease lasts unless renewed, and seconds for which its end is remembered."""
_RENEW_S = 600.0
_STEP = 1000


def redis_time(link: redis.Redis) -> float:
    """Seconds since 1970, by Redis's clock."""
    now: Any = link.time()
    seconds, micros = now
    return float(seconds) + float(micros) / 1e6


class Lease:
    """The leases of one writer. A context manager: they end with the block.

    Not thread-safe.
    """

    def __init__(self, link: redis.Redis, keys: Keys) -> None:
        self._redis = link
        self._key = keys.leases
        self._writer = secrets.token_hex(4)
        self._held: set[str] = set()
        self._offset: float | None = None
        self._renewed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held and not isinstance(error, redis.RedisError):
            self.end()

    def _now(self) -> float:
        if self._offset is None:
            self._offset = redis_time(self._redis) - time.monotonic()
        return time.monotonic() + self._offset

    def hold(self, pipeline: Any, digests: Iterable[str]) -> None:
        """Queue leases of these blobs, before the commands that look for them or write them."""
        now = self._now()
        if self._held and now - self._renewed > _RENEW_S:
            self._extend(pipeline, self._held, now + HOLD_S)
        if not self._held or now - self._renewed > _RENEW_S:
            self._renewed = now
        fresh = {hex_of(digest) for digest in digests} - self._held
        self._extend(pipeline, fresh, now + HOLD_S)
        self._held |= fresh

    def renew(self) -> None:
        """Extend all leases by an hour, before a pointer is written."""
        with self._redis.pipeline(transaction=False) as pipeline:
            self._extend(pipeline, self._held, self._now() + HOLD_S)
            pipeline.execute()

    def end(self) -> None:
        """End all leases; delete leases that ended an hour ago."""
        now = self._now()
        with self._redis.pipeline(transaction=False) as pipeline:
            self._extend(pipeline, self._held, now)
            pipeline.zremrangebyscore(self._key, "-inf", now - HOLD_S)
            pipeline.execute()
        self._held.clear()

    def _extend(self, pipeline: Any, held: set[str], until: float) -> None:
        members = [f"{digits}{self._writer}" for digits in sorted(held)]
        for start in range(0, len(members), _STEP):
            pipeline.zadd(self._key, dict.fromkeys(members[start : start + _STEP], until))


def leased(pipeline: Any, keys: Keys, since: float) -> set[str]:
    """Hex digits of all blobs leased at `since` or later, read on a connection that watches the leases.

    Raises: Conflict: `since` is so long ago that ended leases may have been deleted.
    """
    seconds, micros = pipeline.time()
    if float(seconds) + float(micros) / 1e6 - since > HOLD_S - _RENEW_S:
        raise Conflict("the collection took almost an hour, longer than ended leases are remembered; start it again")
    return {member[:64].decode() for member in pipeline.zrangebyscore(keys.leases, since, "+inf")}
