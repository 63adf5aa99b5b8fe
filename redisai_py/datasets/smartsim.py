"""Data sets written by SmartRedis (SmartSim's simulations), read in place, without copying.

Their keys, according to the documentation of SmartRedis and its pull request 195:

    {NAME}.TENSOR           a tensor of the dataset NAME, as AI.TENSORSET stores it
    {NAME}.meta             hash: its metadata; exists once the dataset is complete
    LIST                    list: references to datasets, an aggregation list
    MEMBER.{NAME}.TENSOR    the same for a member of an ensemble; its other keys likewise

The metadata does not list the tensors. Either `columns` names them, or they are found by a scan of all keys of the
database. Tensors are read with AI.TENSORGET, so the URL must be that of `redisai serve`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from numpy.typing import NDArray

from redisai_py.artifacts import Invalid, Missing, Store, Version, digest_of
from redisai_py.artifacts.connection import scanned
from redisai_py.artifacts.strings import ReceiveBuffer
from redisai_py.client import calls
from redisai_py.client.call import Call
from redisai_py.datasets.layout import Column, Columns, Schema

__all__ = ["SmartSimList"]

_GROUP = 64


@dataclass(frozen=True)
class _Member:
    """One dataset of a list.   base: prefix of its keys.   rows: first dimension of its tensors."""

    number: int
    rows: int
    base: str


class SmartSimList:
    """The datasets of an aggregation list, as of the time it was opened, each a shard of rows.

    The first dimension of every tensor is the rows; all tensors of a dataset have the same number.
    """

    def __init__(self, store: Store, version: Version, schema: Schema, members: Sequence[_Member]) -> None:
        self.store = store
        self.version = version
        self.schema = schema
        self._members = tuple(members)

    @classmethod
    def open(cls, store: Store, name: str, columns: Sequence[str] | None = None, member: str = "") -> SmartSimList:
        """Open the list of this name.

        Args:    columns: names of tensors; by default all of the first dataset.   member: of an ensemble; prefix of its
                 keys.
        Raises:  Missing: no such list, or one of its datasets or tensors is missing.   Invalid: tensors differ.
        """
        key = f"{member}.{name}" if member else name
        found: Any = store.redis.lrange(key, 0, -1)
        if not found:
            raise Missing(f"there is no aggregation list {key}")
        bases = [_base(entry.decode("utf-8", "surrogateescape"), member) for entry in found]
        names = list(columns or _tensors_of(store, bases[0]))
        described = [_describe(meta, base) for base, meta in zip(bases, _metas(store, bases, names), strict=True)]
        schema = Schema(tuple(Column(n, *described[0][n][:2]) for n in names))
        members = [_member(number, base, schema, described[number]) for number, base in enumerate(bases)]
        digest = digest_of("\n".join(f"{m.base} {m.rows}" for m in members).encode("utf-8", "surrogateescape"))
        return cls(store, Version(key, 0, digest), schema, members)

    def on(self, store: Store) -> SmartSimList:
        """The same list on another connection."""
        return SmartSimList(store, self.version, self.schema, self._members)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the connection: another process opens its own, see `on`."""
        return {name: value for name, value in self.__dict__.items() if name != "store"}

    @property
    def rows(self) -> int:
        """Number of rows of all datasets."""
        return sum(member.rows for member in self._members)

    def shards(self, split: str | None = None) -> list[_Member]:
        """The datasets. Raises: Missing: a split was given; lists have none."""
        if split is not None:
            raise Missing(f"aggregation list {self.version.name} has no split {split}")
        return list(self._members)

    def stream(
        self, shards: Sequence[_Member], columns: Sequence[str] | None = None, buffer: ReceiveBuffer | None = None
    ) -> Iterator[Columns]:
        """Like `fetch`, one by one.   buffer: ignored."""
        return iter(self.fetch(shards, columns))

    def fetch(self, shards: Sequence[_Member], columns: Sequence[str] | None = None) -> list[Columns]:
        """The tensors of some datasets, read in one round trip.

        Raises: Missing: a tensor has disappeared.   Invalid: its type or shape has changed.
        """
        names = list(columns) if columns is not None else self.schema.names
        keys = [f"{shard.base}.{name}" for shard in shards for name in names]
        values = iter(_ask(self.store.redis, [calls.tensorget(key) for key in keys], keys))
        found: list[Columns] = []
        for shard in shards:
            part: dict[str, NDArray[Any]] = {name: next(values) for name in names}
            described = {name: (v.dtype.name, v.shape[1:], len(v)) for name, v in part.items()}
            if _member(shard.number, shard.base, _only(self.schema, names), described).rows != shard.rows:
                raise Invalid(f"dataset {shard.base} has other rows than when the list was opened")
            found.append(part)
        return found


def _base(entry: str, member: str) -> str:
    """The prefix of a dataset's keys. A reference is a name, or a name in braces after a member."""
    if "{" in entry and entry.endswith("}"):
        return entry
    return f"{member}.{{{entry}}}" if member else f"{{{entry}}}"


def _tensors_of(store: Store, base: str) -> list[str]:
    found = sorted({name for _, name in scanned(store.redis, f"{base}.") if name != "meta"})
    if not found:
        raise Missing(f"dataset {base} has no tensors")
    return found


def _metas(store: Store, bases: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Types and shapes of all tensors."""
    found: list[dict[str, Any]] = []
    for at in range(0, len(bases), _GROUP):
        keys = [f"{base}.{name}" for base in bases[at : at + _GROUP] for name in names]
        replies = _ask(store.redis, [calls.tensorget(key, meta_only=True) for key in keys], keys)
        found += [
            dict(zip(names, replies[start : start + len(names)], strict=True))
            for start in range(0, len(keys), len(names))
        ]
    return found


def _ask(link: redis.Redis, asked: Sequence[Call[Any]], keys: Sequence[str]) -> list[Any]:
    with link.pipeline(transaction=False) as pipeline:
        for call in asked:
            pipeline.execute_command(*call.argv)  # type: ignore[no-untyped-call]  # redis-py's
        replies = pipeline.execute(raise_on_error=False)
    found = []
    for call, key, reply in zip(asked, keys, replies, strict=True):
        if isinstance(reply, redis.ResponseError):
            hint = "; is this the address of a plain Redis?" if "unknown command" in str(reply).lower() else ""
            raise Missing(f"tensor {key}: {reply}{hint}")
        found.append(call.decode(reply))
    return found


_NAMES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16"}


def _describe(metas: dict[str, Any], base: str) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """By tensor: dtype and shape of a row, and the number of rows."""
    found = {}
    for name, meta in metas.items():
        shape = tuple(meta["shape"])
        if not shape:
            raise Invalid(f"tensor {base}.{name} is one value, not one per row")
        found[name] = (_NAMES.get(meta["dtype"], meta["dtype"].lower()), shape[1:], shape[0])
    return found


def _only(schema: Schema, names: Sequence[str]) -> Schema:
    return Schema(tuple(column for name in names for column in schema.columns if column.name == name))


def _member(number: int, base: str, schema: Schema, described: dict[str, tuple[str, tuple[int, ...], int]]) -> _Member:
    for column in schema.columns:
        kind, shape, _ = described[column.name]
        if (kind, shape) != (column.type, column.shape):
            raise Invalid(
                f"tensor {base}.{column.name} is {kind}{list(shape)} a row; "
                f"the first dataset of its list has {column.type}{list(column.shape)}"
            )
    rows = {name: rows for name, (_, _, rows) in described.items()}
    if len(set(rows.values())) > 1:
        raise Invalid(f"dataset {base} has tensors of different numbers of rows: {rows}")
    return _Member(number, next(iter(rows.values())), base)
