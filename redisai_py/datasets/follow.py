"""Following a data set: appended rows, step by step, as they arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts import Missing, Reference, Store, Version, digest_of
from redisai_py.artifacts.names import LATEST
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.datasets.tail import START, Tail, agreed_schema

__all__ = ["follow", "followed"]


def followed(store: Store, reference: str, archive: str | None = None) -> Dataset:
    """The version after which a reader starts; an empty one if the data set was appended to but never sealed.

    Raises: see `Dataset.open`.
    """
    try:
        return Dataset.open(store, reference, archive)
    except Missing:
        named = Reference.parse(reference)
        schema = agreed_schema(store, named.name)
        if schema is None or named.version is not None or named.alias not in (None, LATEST):
            raise
        return Dataset(store, Version(named.name, 0, digest_of(b"")), schema, [], archive=archive)


def follow(
    dataset: Dataset,
    columns: Sequence[str],
    batch: int,
    first: int = 0,
    stride: int = 1,
    idle_s: float | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Steps of `batch` rows that were appended after the version was sealed, in the order of the tail.

    Args:   first, stride: yield only the steps first, first + stride, ...; the rows of other steps are not fetched.
            idle_s: stop after this many seconds without new rows; rows that do not fill a step are dropped then.
    Raises: Missing: the reader is slower than the tail's window; names the missed shards.   Corrupt, Invalid.
    """
    assert dataset.store is not None  # appended rows are in Redis
    tail = Tail(dataset.store, dataset.version.name)
    held: list[Columns] = []
    position = 0  # of the first held row, or of the next row to arrive
    wanted = first * batch
    for shard in tail.follow(dataset.sealed or START, idle_s):
        end = position + sum(map(row_count, held)) + shard.rows
        if end <= wanted:  # neither this shard nor the held rows are wanted
            held, position = [], end
            continue
        held += dataset.fetch([shard], columns)
        while end >= wanted + batch:
            joined = {name: np.concatenate([part[name] for part in held]) for name in columns}
            at = wanted - position
            yield {name: values[at : at + batch] for name, values in joined.items()}
            wanted += stride * batch
            cut = min(wanted, end) - position
            held = [{name: values[cut:] for name, values in joined.items()}]
            position += cut
