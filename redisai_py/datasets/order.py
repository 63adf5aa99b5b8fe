"""The rows of a training step: a pure function of (rows of each shard, seed, epoch, step).

The number of ranks and of loader workers takes no part, so a run that restarts with other numbers sees the same global
batches. The order of an epoch has two stages, so that it needs no index of all rows: the shards are permuted, then the
rows within each block of consecutive shards. So a reader holds one block, not the data set, and the order of a billion
rows costs as much as the order of its shards.

Every permutation comes from raw outputs of Philox, whose stream is fixed by its definition (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", 2011). numpy guarantees that for bit generators, but not for
`Generator.permutation`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Epoch", "Order", "Remainder", "Steps", "permutation"]

Remainder = Literal["pad", "drop"]
"""How to treat rows that do not fill the last step: `pad` fills it with the first rows of the epoch, `drop` leaves
them out of this epoch.
"""

_IN_ORDER = -1


def permutation(count: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation of range(count) that depends only on the key, on every machine and numpy version."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    words = np.frombuffer(digest[:16], np.uint64)
    drawn = np.random.Philox(key=words).random_raw(count)
    # The lowest bits of each draw hold its number. So no two draws are equal, and sorting them, several times as fast
    # as argsort, puts the numbers into the order of the draws.
    mask = np.uint64((1 << count.bit_length()) - 1)
    drawn &= ~mask
    drawn |= np.arange(count, dtype=np.uint64)
    drawn.sort()
    drawn &= mask
    return drawn.view(np.int64)


@dataclass(frozen=True)
class Steps:
    """Division of an epoch of `rows` rows into steps of `batch` rows, counting all ranks.

    Each step is divided equally, so every rank has the same number of steps.
    Raises: ValueError: `batch` is below 1, or not a multiple of the number of ranks (from `slice_of`).
    """

    rows: int
    batch: int
    remainder: Remainder = "pad"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch_size is {self.batch}; a step needs at least one row")

    @cached_property
    def count(self) -> int:
        """Number of steps in an epoch."""
        return self.rows // self.batch if self.remainder == "drop" else -(-self.rows // self.batch)

    def slice_of(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[int, int]:
        """The positions [start, stop) in the epoch that a rank reads; positions from `rows` on wrap around to 0."""
        if self.batch % ranks:
            raise ValueError(f"batch_size is {self.batch}, which {ranks} ranks cannot share equally")
        share = self.batch // ranks
        start = step * self.batch + rank * share
        return start, start + share


@dataclass(frozen=True, slots=True)
class Block:
    """Shards whose rows are shuffled together.

    shards: their numbers in the data set, in the order in which a reader joins them.
    start: position of the block's first row in the epoch.   rows: number of rows in all of its shards.
    """

    number: int
    shards: tuple[int, ...]
    start: int
    rows: int


@dataclass(frozen=True)
class Order:
    """The order of every epoch of one split.

    rows: of each shard.   block_shards: number of shards that are shuffled together.   shuffle: False keeps the order.
    """

    rows: tuple[int, ...]
    seed: int = 0
    block_shards: int = 8
    shuffle: bool = True

    @cached_property
    def total(self) -> int:
        """Number of rows in an epoch."""
        return sum(self.rows)

    def epoch(self, number: int) -> Epoch:
        """The order of one epoch."""
        return Epoch(self, number)


class Epoch:
    """One epoch's order."""

    def __init__(self, order: Order, number: int) -> None:
        self._order = order
        self.number = number if order.shuffle else _IN_ORDER
        self.blocks = tuple(self._cut())
        self._starts = [block.start for block in self.blocks]
        self._mixed: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))  # the most recent block

    def _cut(self) -> Iterator[Block]:
        order = self._order
        count = len(order.rows)
        shards = permutation(count, "shards", order.seed, self.number) if order.shuffle else np.arange(count)
        start = 0
        for number, at in enumerate(range(0, count, order.block_shards)):
            chosen = tuple(int(shard) for shard in shards[at : at + order.block_shards])
            rows = sum(order.rows[shard] for shard in chosen)
            yield Block(number, chosen, start, rows)
            start += rows

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """The order of a block's rows, as row numbers in its joined shards. Not thread-safe."""
        if self._mixed[0] != number:
            rows, order = self.blocks[number].rows, self._order
            mixed = permutation(rows, "rows", order.seed, self.number, number) if order.shuffle else np.arange(rows)
            self._mixed = (number, mixed)
        return self._mixed[1]

    def cuts(self, start: int, stop: int) -> Iterator[tuple[Block, int, int]]:
        """The blocks of the positions [start, stop), each with the first position in the block and the number of rows.

        Positions after the last row wrap around.

        Raises: ValueError: there are no rows.
        """
        total = self._order.total
        if not total:
            raise ValueError("the split has no rows")
        at = start
        while at < stop:
            position = at % total
            block = self.blocks[bisect_right(self._starts, position) - 1]
            offset = position - block.start
            length = min(stop - at, block.rows - offset)
            yield block, offset, length
            at += length
