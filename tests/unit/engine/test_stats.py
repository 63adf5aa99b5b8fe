"""Counters and distributions."""

from __future__ import annotations

import numpy as np
import pytest

from redisai_py.engine.stats import Distribution, Histogram, ModelStats, RunStats, StatsTable


def test_quantiles_are_close_from_above() -> None:
    histogram = Histogram()
    times = np.random.default_rng(0).lognormal(-7, 1.5, 5000)
    for chunk in np.array_split(times, 50):
        histogram.extend(chunk.tolist())
    distribution = Distribution.from_tally(histogram.tally())
    assert distribution.count == 5000
    assert distribution.sum_us == pytest.approx(times.sum() * 1e6)
    for quantile, bound in ((50, distribution.p50_us), (95, distribution.p95_us), (99, distribution.p99_us)):
        exact = np.percentile(times, quantile, method="inverted_cdf") * 1e6
        assert exact <= bound <= exact * 2 ** (1 / 8) * 1.0001


def test_buckets_are_cumulative_counts_at_powers_of_two() -> None:
    histogram = Histogram()
    histogram.extend([0.0, 1e-6, 2e-6, 3e-6, 100.0])
    buckets = dict(Distribution.from_tally(histogram.tally()).buckets)
    assert (buckets[1.0], buckets[2.0], buckets[4.0], buckets[2.0**31]) == (2, 3, 4, 5)


def test_a_time_beyond_the_scale_is_counted_in_the_last_bucket() -> None:
    histogram = Histogram()
    histogram.extend([1e9])
    assert Distribution.from_tally(histogram.tally()).count == 1


def test_nothing_counted_is_all_zero() -> None:
    assert ModelStats().snapshot() == RunStats()
    assert Distribution.from_tally(Histogram().tally()).p99_us == 0


def test_each_member_adds_the_whole_duration_and_a_failure_adds_nothing_else() -> None:
    stats = ModelStats()
    stats.executed(6, 0.002, [0.001, 0.003], calls=1, samples=2)
    stats.succeeded(1, 0.002, 4)  # the other member, which counts only now
    stats.failed(ValueError("bad"))
    snapshot = stats.snapshot()
    assert (snapshot.calls, snapshot.errors, snapshot.duration_us, snapshot.samples) == (3, 1, 4000, 6)
    assert (snapshot.batches, snapshot.batch_rows, snapshot.last_error) == (1, {6: 1}, "bad")
    assert (snapshot.queue_time.count, snapshot.run_time.count) == (2, 1)
    stats.loads = 1
    stats.reset()
    assert stats.snapshot() == RunStats(loads=1)


def test_what_is_discounted_was_counted_before() -> None:
    stats = ModelStats()
    stats.executed(2, 0.001, [0.0], calls=1, samples=2)
    stats.executed(3, 0.001, [0.0], calls=1, samples=3)
    stats.discount(0.001, 2, failed=False)
    snapshot = stats.snapshot()
    assert (snapshot.calls, snapshot.duration_us, snapshot.samples, snapshot.batches) == (1, 1000, 3, 2)


def test_the_number_of_distinct_batch_sizes_is_bounded() -> None:
    stats = ModelStats()
    for rows in range(5000):
        stats.executed(rows, 0.0, [], calls=1, samples=rows)
    sizes = stats.snapshot().batch_rows
    assert len(sizes) < 80
    assert sizes[64] == 1
    assert sizes[128] == 64
    assert sum(sizes.values()) == 5000


def test_a_table_forgets_what_was_longest_unused() -> None:
    table = StatsTable(limit=2)
    a = table.of("a")
    table.of("b").succeeded(1, 0.0, 1)
    assert table.of("a") is a
    table.of("c")
    assert table.of("a") is a
    assert table.of("b").calls == 0


def test_counters_in_use_stay() -> None:
    table = StatsTable(limit=2, in_use=lambda: {"a", "b"})
    a, b = table.of("a"), table.of("b")
    c = table.of("c")  # one too many, but the others are in use
    table.of("d")
    assert (table.of("a"), table.of("b")) == (a, b)
    assert table.of("c") is not c
