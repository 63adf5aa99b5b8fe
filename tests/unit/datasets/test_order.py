"""The order of training rows: each once, the same everywhere, equal steps for every rank."""

from __future__ import annotations

import numpy as np
import pytest

from redisai_py.datasets.order import Epoch, Order, Remainder, Steps, permutation

CASES = 10_000


def rows_of(order: Order, epoch: Epoch, start: int, stop: int) -> list[tuple[int, int]]:
    """(shard, row) at positions [start, stop)."""
    found: list[tuple[int, int]] = []
    for block, offset, length in epoch.cuts(start, stop):
        counts = [order.rows[shard] for shard in block.shards]
        ends = np.cumsum(counts)
        rows = epoch.rows_of(block.number)[offset : offset + length]
        places = np.searchsorted(ends, rows, side="right")
        found += [(block.shards[i], int(row - ends[i] + counts[i])) for i, row in zip(places, rows, strict=True)]
    return found


def test_ranks_see_each_row_once_an_epoch() -> None:
    random = np.random.default_rng(0)
    for case in range(CASES):
        rows = tuple(int(count) for count in random.integers(0, 12, random.integers(0, 8)))
        order = Order(rows, case % 5, int(random.integers(1, 5)), shuffle=case % 4 != 0)
        epoch = order.epoch(case % 3)
        remainder: Remainder = "drop" if case % 2 else "pad"
        steps = Steps(order.total, 6 * int(random.integers(1, 4)), remainder)
        whole = [rows_of(order, epoch, *steps.slice_of(step)) for step in range(steps.count)]
        every = [(shard, row) for shard, count in enumerate(rows) for row in range(count)]
        seen = [row for step in whole for row in step]
        if remainder == "pad":
            assert sorted(seen[: order.total]) == every
            assert 0 <= len(seen) - order.total < steps.batch
        else:
            assert len(set(seen)) == len(seen)
            assert 0 <= order.total - len(seen) < steps.batch
        for ranks in (2, 3):  # joined, their slices are the step, whatever their number
            for step in range(steps.count):
                slices = [rows_of(order, epoch, *steps.slice_of(step, rank, ranks)) for rank in range(ranks)]
                assert {len(rows_of_rank) for rows_of_rank in slices} == {steps.batch // ranks}
                assert [row for rows_of_rank in slices for row in rows_of_rank] == whole[step]


def test_the_order_is_the_same_on_every_machine() -> None:
    assert permutation(8, "rows", 0, 1, 2).tolist() == [5, 0, 3, 4, 6, 7, 2, 1]
    order = Order((3, 2, 4), seed=7, block_shards=2)
    assert rows_of(order, order.epoch(1), 0, 9) != rows_of(order, order.epoch(2), 0, 9)


def test_no_shuffle_is_the_stored_order() -> None:
    order = Order((2, 0, 3), shuffle=False, block_shards=2)
    assert rows_of(order, order.epoch(5), 0, 5) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


def test_blocks_mix_their_own_shards_only() -> None:
    order = Order((5,) * 6, seed=1, block_shards=2)
    epoch = order.epoch(0)
    assert sorted(shard for block in epoch.blocks for shard in block.shards) == list(range(6))
    first = {shard for shard, _ in rows_of(order, epoch, 0, 10)}
    assert first == set(epoch.blocks[0].shards)


def test_an_order_of_many_shards_is_made_at_once() -> None:
    order = Order((4096,) * 20_000, seed=3)
    rows = rows_of(order, order.epoch(0), 70_000_000, 70_000_256)
    assert len(set(rows)) == 256


@pytest.mark.parametrize("batch", [0, -3])
def test_a_step_needs_rows(batch: int) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Steps(10, batch)


def test_ranks_must_share_a_batch_equally() -> None:
    with pytest.raises(ValueError, match="batch_size is 10, which 3 ranks cannot share"):
        Steps(100, 10).slice_of(0, 0, 3)


def test_an_empty_split_has_no_steps() -> None:
    assert Steps(0, 4).count == 0
    with pytest.raises(ValueError, match="no rows"):
        list(Order(()).epoch(0).cuts(0, 1))


def test_permutations_are_permutations() -> None:
    for count in (0, 1, 2, 1000):
        assert np.array_equal(np.sort(permutation(count, "a", count)), np.arange(count))
