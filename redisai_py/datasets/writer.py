"""Writing data sets: a version in one step, or shards that producers append and that `seal` makes a version.

Appended shards stand in a stream, the tail. Readers follow it; `seal` makes its shards, behind those of the newest
version, the next version. Shards are written first and the pointer last, so nothing is visible before it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redisai_py.artifacts import Conflict, Descriptor, Invalid, Lease, Missing, Reference, Store, Version
from redisai_py.artifacts.digest import is_digest
from redisai_py.datasets.dataset import FORMAT, KIND, Dataset
from redisai_py.datasets.layout import SHARD_TYPE, Columns, NanPolicy, Schema, complete
from redisai_py.datasets.shards import SHARD_BYTES, Shard, write_shards
from redisai_py.datasets.split import Split

__all__ = ["Writer", "put", "split"]

_SCHEMA = "schema"
_PAGE = 1000


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
) -> Version:
    """Write a version.

    Args:    rows: columns, or columns by split: `{"train": {...}, "test": {...}}`.
             schema: the columns' own unless given.
             nan: what becomes of rows that lack a number or a time.
    Returns: the version; the same content is the same version.
    Raises:  Invalid: rows do not fit the schema, or there are none; nothing was written.   redis.RedisError.
    """
    splits: Mapping[str, Columns] = rows if all(isinstance(part, Mapping) for part in rows.values()) else {"": rows}  # type: ignore[assignment,dict-item]
    if schema is None:
        if not splits:
            raise Invalid(f"data set {name} has no columns")
        schema = Schema.of(next(iter(splits.values())), nan=nan == "keep")
    if nan == "drop":
        splits = {label: complete(part) for label, part in splits.items()}
    for part in splits.values():
        schema.check(part)
    with store.lease() as lease:
        shards: list[Shard] = []
        for label, part in splits.items():
            shards += write_shards(
                store, schema, part, lease, split=label, first=len(shards), shard_bytes=shard_bytes, compress=compress
            )
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
) -> Version:
    """Make shards that were written a version.   sealed: see `Dataset.sealed`."""
    places = [{"rows": shard.rows, **({"split": shard.split} if shard.split else {})} for shard in shards]
    config: dict[str, Any] = {"format": FORMAT, "schema": schema.as_json(), "shards": places}
    if sealed:
        config["sealed"] = sealed
    manifest = store.manifest(config, [shard.layer for shard in shards], lease)
    return store.commit(KIND, name, manifest, lease, aliases=aliases, rows=sum(shard.rows for shard in shards))


def split(store: Store, dataset: Dataset, how: Split, aliases: Sequence[str] = ()) -> Version:
    """The rows of a version as a new version of the same name with the splits `train` and `test`. Raises: Invalid."""
    named = next((name for name in (how.stratify, how.by, how.group) if name is not None), dataset.schema.names[0])
    rows = dataset.read()
    test = how.test_rows({named: rows[named]} if named in rows else rows)
    sides = {"train": ~test, "test": test}
    parts = {side: {name: values[chosen] for name, values in rows.items()} for side, chosen in sides.items()}
    return put(store, dataset.version.name, parts, schema=dataset.schema, aliases=aliases)


@dataclass(frozen=True)
class Appended:
    """One shard of the tail.   at: its place in the stream."""

    at: str
    shard: Shard


class Writer:
    """Appends to a data set. Several producers may, at the same time, each with a Writer of its own.

    schema: what every appended row must fit; needed for a name that has none yet, and otherwise checked.
    Raises: Conflict: the data set has another schema.   Missing: it has none, and none was given.
    """

    def __init__(self, store: Store, name: str, schema: Schema | None = None) -> None:
        self._store = store
        self.name = name
        self._keys = store.keys
        self.schema = self._agree(schema)

    def _agree(self, schema: Schema | None) -> Schema:
        key = self._keys.versions(KIND, self.name)
        if schema is not None:
            self._store.redis.hsetnx(key, _SCHEMA, json.dumps(schema.as_json()))
        found: Any = self._store.redis.hget(key, _SCHEMA)
        if found is not None:
            known = Schema.from_json(json.loads(found))
        else:
            known = Dataset.open(self._store, self.name).schema
        if schema is not None and schema != known:
            raise Conflict(f"data set {self.name} has other columns: {_told(known)}, not {_told(schema)}")
        return known

    def append(self, columns: Columns) -> list[str]:
        """Add rows to the tail, whole shards at a time.

        Returns: their places in the stream. Raises: Invalid: they do not fit the schema; nothing was written.
        """
        with self._store.lease() as lease:
            shards = write_shards(self._store, self.schema, columns, lease)
            with self._store.redis.pipeline(transaction=True) as pipeline:
                for shard in shards:
                    pipeline.xadd(self._keys.tail(KIND, self.name), _fields(shard))
                return [place.decode() for place in pipeline.execute()]

    def tail(self, after: str = "-") -> Iterator[Appended]:
        """What was appended and not sealed, in order; no more than a page of it in memory."""
        start = after if after == "-" else f"({after}"
        while True:
            entries: Any = self._store.redis.xrange(self._keys.tail(KIND, self.name), min=start, count=_PAGE)
            for at, fields in entries:
                yield _appended(self.name, at.decode(), fields)
            if len(entries) < _PAGE:
                return
            start = f"({entries[-1][0].decode()}"

    def seal(self, aliases: Sequence[str] = (), keep_rows: int | None = None) -> Version:
        """Make the shards of the newest version and of the tail the next version.

        Args:    keep_rows: only the newest shards that have so many rows together; what is older is left out of this
                 version, and stays in those before it.
        Raises:  Missing: nothing was appended, and there is no version.
        """
        with self._store.lease() as lease:
            newest = self._newest_version()
            shards = newest.shards() if newest is not None else []
            # What another `seal` has taken in stays in the tail until that one removes it.
            sealed = newest.sealed if newest is not None else ""
            appended = list(self.tail(after=sealed or "-"))
            if not appended:
                raise Missing(f"nothing was appended to data set {self.name} since it was sealed")
            shards = _newest(shards + [entry.shard for entry in appended], keep_rows)
            titled = [_numbered(number, shard) for number, shard in enumerate(shards)]
            version = commit(self._store, self.name, self.schema, titled, lease, aliases, appended[-1].at)
            self._forget([entry.at for entry in appended])
            return version

    def _newest_version(self) -> Dataset | None:
        with suppress(Missing):
            return Dataset.open(self._store, Reference(self.name))
        return None

    def _forget(self, places: Sequence[str]) -> None:
        for at in range(0, len(places), _PAGE):
            self._store.redis.xdel(self._keys.tail(KIND, self.name), *places[at : at + _PAGE])


def _told(schema: Schema) -> str:
    return ", ".join(f"{column.name} {column.type}{list(column.shape) or ''}" for column in schema.columns)


def _newest(shards: Sequence[Shard], keep_rows: int | None) -> list[Shard]:
    """The last shards that have `keep_rows` rows together; all if None."""
    if keep_rows is None:
        return list(shards)
    kept: list[Shard] = []
    for shard in reversed(shards):
        if kept and sum(one.rows for one in kept) >= keep_rows:
            break
        kept.insert(0, shard)
    return kept


def _numbered(number: int, shard: Shard) -> Shard:
    """The shard under a number and a title of its own: producers do not know each other's."""
    layer = shard.layer
    titled = Descriptor.of_content(
        SHARD_TYPE,
        f"shard-{number:06d}.safetensors",
        (layer.digest, layer.size),
        (layer.content_digest, layer.content_size),
    )
    return Shard(number, shard.rows, shard.split, titled)


def _fields(shard: Shard) -> dict[Any, Any]:
    layer = shard.layer
    return {
        "digest": layer.digest,
        "size": layer.size,
        "content": layer.content_digest,
        "content_size": layer.content_size,
        "rows": shard.rows,
    }


def _appended(name: str, at: str, fields: Mapping[bytes, bytes]) -> Appended:
    """An entry of the tail, which anybody with the right may have written. Raises: Invalid."""
    text = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in fields.items()}
    numbers = [text.get(field, "") for field in ("size", "content_size", "rows")]
    digests = [text.get(field, "") for field in ("digest", "content")]
    plain = all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers)
    if not plain or not all(map(is_digest, digests)) or not int(numbers[2]):
        raise Invalid(f"the tail of data set {name} has an entry that is no shard: {at}")
    size, content_size, rows = map(int, numbers)
    layer = Descriptor.of_content(SHARD_TYPE, "shard.safetensors", (digests[0], size), (digests[1], content_size))
    return Appended(at, Shard(0, rows, "", layer))
