"""Which rows a training step reads: a pure function of (rows of each shard, seed, epoch, step).

Neither the number of ranks nor the number of loader workers takes part, so a run that restarts with another number of
either sees the same global batches. The order of an epoch is made in two stages, so that it needs no index of all rows:
the shards are permuted, and then the rows within each block of consecutive shards. A reader therefore holds one block,
not the data set, and the order of a billion rows costs as much as the order of its shards.

Every permutation comes from raw outputs of Philox, whose stream is fixed by its definition (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", 2011). numpy promises that for bit generators, and not for `Generator.permutation`.
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

__all__ = ["Block", "Epoch", "Order", "Piece", "Remainder", "Steps", "permutation"]

Remainder = Literal["pad", "drop"]
"""What becomes of the rows that do not fill the last step: `pad` repeats rows from the epoch's start, `drop` leaves
them out of this epoch.
"""

_IN_ORDER = -1


def permutation(count: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on the key alone, on every machine and numpy version."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    words = np.frombuffer(digest[:16], np.uint64)
    drawn = np.random.Philox(key=words).random_raw(count)
    # The lowest bits of each draw become its number: so no two are equal, and sorting them, several times as fast as
    # argsort, brings the numbers into the order of the draws.
    mask = np.uint64((1 << count.bit_length()) - 1)
    drawn &= ~mask
    drawn |= np.arange(count, dtype=np.uint64)
    drawn.sort()
    drawn &= mask
    return drawn.view(np.int64)


@dataclass(frozen=True)
class Steps:
    """How an epoch of `rows` rows is cut into steps of `batch` rows, the batch of all ranks together.

    Every rank has the same number of steps, because each step is cut into equal slices.
    Raises: ValueError: `batch` is below 1, or the ranks cannot share it equally (from `slice_of`).
    """

    rows: int
    batch: int
    remainder: Remainder = "pad"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch_size is {self.batch}; a step needs at least one row")

    @cached_property
    def count(self) -> int:
        """Steps of an epoch."""
        return self.rows // self.batch if self.remainder == "drop" else -(-self.rows // self.batch)

    @property
    def left_over(self) -> int:
        """Rows that the last step repeats (`pad`) or that the epoch leaves out (`drop`)."""
        return self.rows - self.count * self.batch if self.remainder == "drop" else self.count * self.batch - self.rows

    def slice_of(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[int, int]:
        """Positions [start, stop) of the epoch's order that a rank reads; those past `rows` begin again at 0."""
        if self.batch % ranks:
            raise ValueError(f"batch_size is {self.batch}, which {ranks} ranks cannot share equally")
        share = self.batch // ranks
        start = step * self.batch + rank * share
        return start, start + share


@dataclass(frozen=True, slots=True)
class Block:
    """Shards whose rows are mixed.

    shards: their numbers in the data set, in the order in which a reader joins them.
    start: position of the block's first row in the epoch.   rows: in all of its shards.
    """

    number: int
    shards: tuple[int, ...]
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive positions of an epoch that lie in one block. rows: (n,) int64, rows of the joined shards."""

    block: Block
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order of every epoch of one split.

    rows: of each shard.   block_shards: how many shards are mixed at a time.   shuffle: False is the stored order.
    """

    rows: tuple[int, ...]
    seed: int = 0
    block_shards: int = 8
    shuffle: bool = True

    @cached_property
    def total(self) -> int:
        """Rows of an epoch."""
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
        self._mixed: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))  # of the last block asked for

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
        """The order of a block's rows: numbers of rows of its joined shards. For one thread at a time."""
        if self._mixed[0] != number:
            rows, order = self.blocks[number].rows, self._order
            mixed = permutation(rows, "rows", order.seed, self.number, number) if order.shuffle else np.arange(rows)
            self._mixed = (number, mixed)
        return self._mixed[1]

    def blocks_of(self, start: int, stop: int) -> Iterator[Block]:
        """The blocks that positions [start, stop) lie in; see `pieces`."""
        for block, _, _ in self.cuts(start, stop):
            yield block

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The rows at positions [start, stop), block by block; positions past the last row begin again at the first.

        Raises: ValueError: there are no rows.
        """
        for block, offset, length in self.cuts(start, stop):
            yield Piece(block, self.rows_of(block.number)[offset : offset + length])

    def cuts(self, start: int, stop: int) -> Iterator[tuple[Block, int, int]]:
        """The blocks that positions [start, stop) lie in: the first place within the block, and how many.

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

    def rows(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(shard, row) at positions [start, stop): what `pieces` means, row by row."""
        found: list[tuple[int, int]] = []
        for piece in self.pieces(start, stop):
            counts = [self._order.rows[shard] for shard in piece.block.shards]
            ends = np.cumsum(counts)
            starts = ends - counts
            of_shard = np.searchsorted(ends, piece.rows, side="right")
            found += [
                (piece.block.shards[i], int(row - starts[i])) for i, row in zip(of_shard, piece.rows, strict=True)
            ]
        return found
