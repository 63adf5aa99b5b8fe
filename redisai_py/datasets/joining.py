"""Joining small shards: producers append a few rows at a time, but readers want shards of a megabyte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from redisai_py.artifacts import Lease, Store
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.shards import Shard, read_shards, shard_size, write_stored

__all__ = ["Joining"]

_SMALL = 4  # shards smaller than a quarter of the usual size are joined


class Joining:
    """Joins small neighbouring shards of a split, which keeps the order of rows."""

    def __init__(self, store: Store, what: str, schema: Schema, lease: Lease) -> None:
        self._store = store
        self._what = what
        self._schema = schema
        self._lease = lease

    def joined(self, shards: Sequence[Shard]) -> list[Shard]:
        """The same rows in fewer shards. Raises: Missing, Corrupt, Invalid: a small shard cannot be read."""
        size = shard_size(sum(shard.layer.content_size for shard in shards))
        found: list[Shard] = []
        for group in _groups(shards, size):
            found += self._join(group) if len(group) > 1 else group
        return found

    def _join(self, group: Sequence[Shard]) -> list[Shard]:
        parts = list(read_shards(self._store, self._what, self._schema, group))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in self._schema.names}
        whole = write_stored(self._store, self._schema.check(columns), self._lease, group[0].split, shard_bytes=1 << 62)
        return [Shard(shard.number, shard.rows, shard.split, shard.layer, group[-1].at) for shard in whole]


def _groups(shards: Sequence[Shard], size: int) -> Iterator[list[Shard]]:
    """Groups of neighbours to join: small shards, together at most the usual size."""
    group: list[Shard] = []
    held = 0
    for shard in shards:
        length = shard.layer.content_size
        fits = length * _SMALL < size and held + length <= size and (not group or group[-1].split == shard.split)
        if group and not fits:
            yield group
            group, held = [], 0
        group.append(shard)
        held += length if length * _SMALL < size else size
    if group:
        yield group
