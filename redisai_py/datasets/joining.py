"""Joining small shards: producers append a few rows at a time, but readers want shards of a megabyte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from redisai_py.artifacts import Lease, Store
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.shards import Shard, read_shards, shard_size, write_stored

__all__ = ["joined"]

_SMALL = 4  # shards smaller than a quarter of the usual size are joined


def joined(store: Store, what: str, schema: Schema, shards: Sequence[Shard], lease: Lease) -> list[Shard]:
    """The same rows in fewer shards: small neighbours of a split are joined, which keeps the order.

    Args:   what: name of the data set in errors.
    Raises: Missing, Corrupt, Invalid: a small shard cannot be read.
    """
    found: list[Shard] = []
    for group in _groups(shards, shard_size(sum(shard.layer.content_size for shard in shards))):
        if len(group) == 1:
            found += group
            continue
        parts = list(read_shards(store, what, schema, group))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in schema.names}
        whole = write_stored(store, schema.check(columns), lease, group[0].split, shard_bytes=1 << 62)
        found += [replace(shard, at=group[-1].at) for shard in whole]
    return found


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
