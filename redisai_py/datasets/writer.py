"""Writing data sets: a version in one step, or shards that producers append and that `seal` turns into a version.

Appended shards are entries of a stream, the tail. Readers follow it. `seal` makes a version of the newest version's
shards and the tail's. Shards are written first, the pointer last, so nothing incomplete is visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from redisai_py.artifacts import Conflict, Descriptor, Invalid, Lease, Missing, Store, Version
from redisai_py.artifacts.leases import redis_time
from redisai_py.client.call import Progress
from redisai_py.datasets.dataset import FORMAT, KIND, Dataset
from redisai_py.datasets.joining import joined
from redisai_py.datasets.layout import SHARD_TYPE, Columns, NanPolicy, Schema, complete, row_count
from redisai_py.datasets.shards import SHARD_BYTES, Shard, shard_title, write_stored
from redisai_py.datasets.split import Split
from redisai_py.datasets.tail import START, Tail, Window, agreed_schema

__all__ = ["Writer", "put", "split"]

_TRIES = 100
_TRIM_SHARE = 20  # the tail is checked once per twentieth of its window


def put(
    store: Store,
    name: str,
    rows: Columns | Mapping[str, Columns],
    *,
    schema: Schema | None = None,
    shard_bytes: int = SHARD_BYTES,
    compress: bool = True,
    aliases: Sequence[str] = (),
    nan: NanPolicy = "refuse",
    progress: Progress | None = None,
) -> Version:
    """Write a version.

    Args:    rows: columns, or columns by split: `{"train": {...}, "test": {...}}`.
             schema: by default that of the columns.
             nan: how to treat rows that lack a number or a time.
             progress: called with the rows stored and the total.
    Returns: the version; equal contents are the same version.
    Raises:  Invalid: rows do not fit the schema, or there are none; nothing was written.   redis.RedisError.
    """
    splits: Mapping[str, Columns] = rows if all(isinstance(part, Mapping) for part in rows.values()) else {"": rows}  # type: ignore[assignment,dict-item]
    if schema is None:
        if not splits:
            raise Invalid(f"data set {name} has no columns")
        schema = Schema.of(next(iter(splits.values())), nan=nan == "keep")
    if nan == "drop":
        splits = {label: complete(part) for label, part in splits.items()}
    stored = {label: schema.check(part) for label, part in splits.items()}
    total = sum(map(row_count, stored.values()))
    with store.lease() as lease:
        shards: list[Shard] = []
        for label, part in stored.items():
            for shard in write_stored(store, part, lease, label, len(shards), shard_bytes, compress):
                shards.append(shard)
                if progress is not None:
                    progress(sum(shard.rows for shard in shards), total)
        if not shards:
            raise Invalid(f"data set {name} has no rows")
        return commit(store, name, schema, shards, lease, aliases)


def commit(
    store: Store,
    name: str,
    schema: Schema,
    shards: Sequence[Shard],
    lease: Lease,
    aliases: Sequence[str] = (),
    sealed: str = "",
    version: int | None = None,
) -> Version:
    """Make stored shards a version.   sealed: see `Dataset.sealed`.   version: its number."""
    places = [
        {
            "rows": shard.rows,
            **({"split": shard.split} if shard.split else {}),
            **({"at": shard.at} if shard.at else {}),
        }
        for shard in shards
    ]
    config: dict[str, Any] = {"format": FORMAT, "schema": schema.as_json(), "shards": places}
    if sealed:
        config["sealed"] = sealed
    manifest = store.manifest(config, [shard.layer for shard in shards], lease)
    rows = sum(shard.rows for shard in shards)
    return store.commit(KIND, name, manifest, lease, version, aliases, rows=rows)


def split(store: Store, dataset: Dataset, how: Split, aliases: Sequence[str] = ()) -> Version:
    """A new version with the same rows, in the splits `train` and `test`. Raises: Invalid."""
    named = next((name for name in (how.stratify, how.by, how.group) if name is not None), dataset.schema.names[0])
    rows = dataset.read()
    test = how.test_rows({named: rows[named]} if named in rows else rows)
    sides = {"train": ~test, "test": test}
    parts = {side: {name: values[chosen] for name, values in rows.items()} for side, chosen in sides.items()}
    return put(store, dataset.version.name, parts, schema=dataset.schema, aliases=aliases)


class Writer:
    """Appends to a data set. Several producers may append at the same time, each with its own Writer.

    schema: of every appended row; required for a name that has none yet, otherwise checked.
    window: appended shards to keep in the tail; a shard dropped before `seal` is in no version.
    Raises: Conflict: the data set has another schema.   Missing: it has none, and none was given.
    """

    def __init__(self, store: Store, name: str, schema: Schema | None = None, window: Window | None = None) -> None:
        self._store = store
        self.name = name
        self.tail = Tail(store, name)
        self.schema = self._agree(schema)
        self._window = window
        self._untrimmed = 0  # rows appended since this writer last trimmed the tail

    def _agree(self, schema: Schema | None) -> Schema:
        known = agreed_schema(self._store, self.name)
        if known is None:
            newest = self._newest_version()
            known = newest.schema if newest is not None else agreed_schema(self._store, self.name, schema)
        if known is None:
            raise Missing(f"there is no {KIND} {self.name}, and no columns were given")
        if schema is not None and schema != known:
            raise Conflict(f"data set {self.name} has other columns: {_told(known)}, not {_told(schema)}")
        return known

    def append(self, columns: Columns) -> list[str]:
        """Append rows to the tail, all or none.

        Returns: stream ids of the new shards.
        Raises:  Invalid: the rows do not fit the schema; nothing was written.   redis.RedisError.
        """
        with self._store.lease() as lease:
            shards = list(write_stored(self._store, self.schema.check(columns), lease))
            places = self.tail.append(shards) if shards else []
        self._untrimmed += sum(shard.rows for shard in shards)
        if self._window is not None and self._trim_is_due(self._window):
            self.tail.trim(self._window)
            self._untrimmed = 0
        return places

    def _trim_is_due(self, window: Window) -> bool:
        """Whether enough rows were appended to check the tail."""
        return window.rows is None or self._untrimmed * _TRIM_SHARE >= window.rows

    def seal(self, aliases: Sequence[str] = (), window: Window | None = None) -> Version:
        """Make a version of the newest version's shards and the tail's; small shards are joined.

        Args:    window: leave out older shards; earlier versions keep them.
        Raises:  Missing: nothing was appended since the newest version.   Conflict: others keep sealing.
        """
        for _ in range(_TRIES):
            # The number comes first: whoever seals while the rest is read takes it, and this one starts over.
            number = self._next_number()
            newest = self._newest_version()
            with suppress(_Taken):
                return self._seal(number, newest, aliases, window)
        raise Conflict(f"data set {self.name} is sealed by others again and again; try later")

    def _seal(self, number: int, newest: Dataset | None, aliases: Sequence[str], window: Window | None) -> Version:
        if newest is not None and newest.schema != self.schema:
            raise Conflict(f"{newest.version} has other columns than what was appended: {_told(newest.schema)}")
        before = newest.sealed if newest is not None else ""
        appended = list(self.tail.read(before or START))
        if not appended:
            raise Missing(f"nothing was appended to data set {self.name} since it was sealed")
        shards = (newest.shards() if newest is not None else []) + appended
        if window is not None:
            shards = window.of(shards, redis_time(self._store.redis))
        with self._store.lease() as lease:
            fewer = joined(self._store, f"data set {self.name}", self.schema, shards, lease)
            numbered = [_numbered(place, shard) for place, shard in enumerate(fewer)]
            try:
                version = commit(self._store, self.name, self.schema, numbered, lease, aliases, appended[-1].at, number)
            except Conflict:
                if self._next_number() == number:
                    raise
                raise _Taken from None
        if before:
            self.tail.drop(before)
        return version

    def _next_number(self) -> int:
        """The next version number. Of two concurrent seals the first gets it; the second starts over."""
        return self._store.registry(KIND).following(self.name)

    def _newest_version(self) -> Dataset | None:
        """The version with the highest number, whatever @latest points to."""
        with suppress(Missing):
            newest = self._store.registry(KIND).versions(self.name)[-1]
            return Dataset.open(self._store, str(newest))
        return None


class _Taken(Exception):
    """Another process has made a version meanwhile."""


def _told(schema: Schema) -> str:
    told = [f"{c.name} {c.type}{list(c.shape) or ''}{' with NaN' if c.nan else ''}" for c in schema.columns]
    return ", ".join(told[:20]) + (f", ... ({len(told)})" if len(told) > 20 else "")


def _numbered(number: int, shard: Shard) -> Shard:
    """The shard with its number and title in the version; producers do not know each other's numbers."""
    layer = shard.layer
    titled = Descriptor.of_content(
        SHARD_TYPE, shard_title(number), (layer.digest, layer.size), (layer.content_digest, layer.content_size)
    )
    return replace(shard, number=number, layer=titled)
