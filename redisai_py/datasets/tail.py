"""The tail of a data set: a stream of appended shards. Readers follow it; `seal` makes versions of it.

Sealed shards stay in the tail until the next `seal`, so a reader has that long to catch up. A slower reader gets an
error that names what it missed: the field `dropped` in the data set's hash is the stream id of the last shard removed
from the tail, and changes in the same transaction.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redisai_py.artifacts import Descriptor, Invalid, Malformed, Missing, Store
from redisai_py.artifacts.connection import watching
from redisai_py.artifacts.digest import is_digest
from redisai_py.artifacts.errors import reading
from redisai_py.artifacts.leases import redis_time
from redisai_py.artifacts.manifest import decode_json
from redisai_py.datasets.dataset import KIND
from redisai_py.datasets.layout import SHARD_TYPE, Schema
from redisai_py.datasets.shards import Shard, shard_title

__all__ = ["START", "Tail", "Window", "agreed_schema"]

START = "0-0"
"""The stream id before the first shard."""
_PAGE = 1000
_SCHEMA = "schema"
_DROPPED = "dropped"
_WAIT_MS = 1000  # blocking time of one command, after which a lost connection is noticed


@dataclass(frozen=True)
class Window:
    """The appended shards to keep: the newest ones with `rows` rows together, and those of the last `age_s` seconds.

    Whole shards are kept, so there may be a few rows more. None: no limit.
    """

    rows: int | None = None
    age_s: float | None = None

    def __post_init__(self) -> None:
        if (self.rows is not None and self.rows < 1) or (self.age_s is not None and self.age_s <= 0):
            raise Invalid("a window must keep at least one row, and more than 0 seconds")

    def of(self, shards: list[Shard], now: float) -> list[Shard]:
        """The shards inside the window, oldest first. Shards that were never appended have no age."""
        kept: list[Shard] = []
        rows = 0
        for shard in reversed(shards):
            aged = self.age_s is not None and shard.at and int(shard.at.partition("-")[0]) / 1000 < now - self.age_s
            if kept and (aged or (self.rows is not None and rows >= self.rows)):
                break
            kept.append(shard)
            rows += shard.rows
        return kept[::-1]


def agreed_schema(store: Store, name: str, wanted: Schema | None = None) -> Schema | None:
    """The schema that everything appended to a data set must fit.

    Args:    wanted: the schema to set if there is none; of several concurrent producers, the first one wins.
    Returns: None if nobody has set one. Raises: Invalid.
    """
    key = store.keys.versions(KIND, name)
    if wanted is not None:
        store.redis.hsetnx(key, _SCHEMA, json.dumps(wanted.as_json()))
    found: Any = store.redis.hget(key, _SCHEMA)
    if found is None:
        return None
    with reading():
        return Schema.from_json(decode_json(f"the schema of data set {name}", found))


class Tail:
    """The appended shards of one data set."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self._key = store.keys.tail(KIND, name)
        self._hash = store.keys.versions(KIND, name)

    def append(self, shards: list[Shard]) -> list[str]:
        """Append stored shards, all or none. Returns: their stream ids."""
        with self._store.redis.pipeline(transaction=True) as pipeline:
            for shard in shards:
                pipeline.xadd(self._key, _fields(shard))
            return [place.decode() for place in pipeline.execute()]

    def read(self, after: str = START) -> Iterator[Shard]:
        """The shards after a stream id, in order, holding at most one page in memory."""
        while True:
            entries: Any = self._store.redis.xrange(self._key, min=f"({after}", count=_PAGE)
            for at, fields in entries:
                yield self._shard(at, fields)
            if len(entries) < _PAGE:
                return
            after = entries[-1][0].decode()

    def follow(self, after: str = START, idle_s: float | None = None) -> Iterator[Shard]:
        """The shards after a stream id, then new ones as they arrive; blocks in Redis instead of polling.

        Args:   idle_s: stop after this many seconds without a new shard; by default never.
        Raises: Missing: shards after that id were removed from the tail before they were read.
        """
        last = time.monotonic()
        while True:
            entries = self._page(after)
            for at, fields in entries:
                after = at.decode()
                yield self._shard(at, fields)
            if entries:
                last = time.monotonic()
                continue
            wait_ms = _WAIT_MS
            if idle_s is not None:
                left = last + idle_s - time.monotonic()
                if left <= 0:
                    return
                wait_ms = min(wait_ms, max(1, int(left * 1000)))
            self._store.redis.xread({self._key: after}, count=1, block=wait_ms)

    def _page(self, after: str) -> Any:
        """The next entries, after checking in the same transaction that none before them was removed."""
        with self._store.redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(self._hash, _DROPPED)
            pipeline.xrange(self._key, min=f"({after}", count=_PAGE)
            dropped, entries = pipeline.execute()
        if dropped is not None and after != START and self._dropped(dropped) > _place(after):
            raise Missing(
                f"data set {self.name}: the tail has lost shards up to {dropped.decode()}, and this reader had come to "
                f"{after} only; they are in its versions, if it was sealed"
            )
        return entries

    def drop(self, up_to: str) -> None:
        """Remove everything up to a stream id. Raises: Conflict: others keep changing the tail."""

        def drop(pipeline: Any) -> None:
            before = pipeline.hget(self._hash, _DROPPED)
            pipeline.multi()
            if before is None or self._dropped(before) < _place(up_to):
                pipeline.xtrim(self._key, minid=_next(up_to), approximate=False)
                pipeline.hset(self._hash, _DROPPED, up_to)

        busy = f"the tail of data set {self.name} changed repeatedly during the operation"
        watching(self._store.redis, drop, self._hash, busy=busy)

    def trim(self, window: Window) -> None:
        """Remove the shards outside the window."""
        now = redis_time(self._store.redis)
        shards = list(self.read())
        kept = window.of(shards, now)
        if len(kept) < len(shards):
            self.drop(shards[len(shards) - len(kept) - 1].at)

    def _dropped(self, text: bytes) -> tuple[int, int]:
        """The place up to which shards have left, which anybody with the right may have written. Raises: Malformed."""
        found = re.fullmatch(rb"(\d{1,20})-(\d{1,20})", text)
        if found is None:
            raise Malformed(f"{self._hash}: the field {_DROPPED} is {text[:40]!r}, not a place of a stream")
        return int(found[1]), int(found[2])

    def _shard(self, at: bytes, fields: Mapping[bytes, bytes]) -> Shard:
        """Parse an entry, which is untrusted. Raises: Malformed."""
        text = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in fields.items()}
        numbers = [text.get(field, "") for field in ("size", "content_size", "rows")]
        digests = [text.get(field, "") for field in ("digest", "content")]
        plain = all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers)
        if not plain or not all(map(is_digest, digests)) or not int(numbers[2]):
            raise Malformed(f"the tail of data set {self.name} has an entry that is not a shard: {at.decode()}")
        size, content_size, rows = map(int, numbers)
        layer = Descriptor.of_content(SHARD_TYPE, shard_title(0), (digests[0], size), (digests[1], content_size))
        return Shard(0, rows, "", layer, at.decode())


def _place(at: str) -> tuple[int, int]:
    milliseconds, _, number = at.partition("-")
    return int(milliseconds), int(number or 0)


def _next(at: str) -> str:
    milliseconds, number = _place(at)
    return f"{milliseconds}-{number + 1}"


def _fields(shard: Shard) -> dict[Any, Any]:
    layer = shard.layer
    return {
        "digest": layer.digest,
        "size": layer.size,
        "content": layer.content_digest,
        "content_size": layer.content_size,
        "rows": shard.rows,
    }
