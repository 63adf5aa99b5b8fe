"""Leases: how a running writer tells `collect` which blobs it counts on, though no version lists them yet.

One sorted set holds, for each (blob, writer), until when the blob is counted on. It has no expiry of its own, since a
Redis that is full may evict whatever has one. The rule that makes collecting safe, with T the time at which it began:

    what was leased at T or later is kept.

A writer leases a blob before it looks whether the blob is there, and ends its lease after its pointer was written, by
setting the end to now. So at the moment of deletion a blob is either leased since T, or its pointer was written before
T and was found, or its writer comes later and will find the blob absent. A writer that was killed loses its blobs when
its lease has run out, after an hour. All times are Redis's own.
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
"""How long a lease lasts unless renewed, and how long its end is remembered."""
_RENEW_S = 600.0
_STEP = 1000


def redis_time(link: redis.Redis) -> float:
    """Seconds since 1970, by Redis's clock."""
    now: Any = link.time()
    seconds, micros = now
    return float(seconds) + float(micros) / 1e6


class Lease:
    """What one writer counts on. A context manager: the lease ends with the block.

    Not for several threads at a time.
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
        """Queue the leases of these blobs, ahead of the commands that look for them or write them."""
        now = self._now()
        if self._held and now - self._renewed > _RENEW_S:
            self._extend(pipeline, self._held, now + HOLD_S)
        if not self._held or now - self._renewed > _RENEW_S:
            self._renewed = now
        fresh = {hex_of(digest) for digest in digests} - self._held
        self._extend(pipeline, fresh, now + HOLD_S)
        self._held |= fresh

    def renew(self) -> None:
        """Hold everything for another hour: before a pointer is written."""
        with self._redis.pipeline(transaction=False) as pipeline:
            self._extend(pipeline, self._held, self._now() + HOLD_S)
            pipeline.execute()

    def end(self) -> None:
        """Count on nothing any more; ends of an hour ago are forgotten."""
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
    """The digits of all blobs leased at `since` or later, read on a connection that watches the leases.

    Raises: Conflict: `since` is so long ago that ends of leases may have been forgotten.
    """
    seconds, micros = pipeline.time()
    if float(seconds) + float(micros) / 1e6 - since > HOLD_S - _RENEW_S:
        raise Conflict("collecting took most of an hour, longer than ends of leases are remembered; start it again")
    return {member[:64].decode() for member in pipeline.zrangebyscore(keys.leases, since, "+inf")}
