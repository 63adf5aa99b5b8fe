"""Counters and distributions of one model's runs, as shown by AI.INFO, INFO and the metrics.

Rules (AI.INFO): an ended run counts as one call. A successful one adds its duration (the whole batch's if it was
merged) and the rows of its first output as samples; a failed one adds one error and nothing else. All updates happen on
the event loop's thread, before the client has its reply. Successes are recorded by one list append and folded in bulk,
when somebody reads the counters or there are enough of them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from redisai_py.engine.merging import Value

__all__ = ["Distribution", "Histogram", "ModelStats", "RunStats", "StatsTable", "samples"]

_PER_OCTAVE = 8
_OCTAVES = 31  # 1 us to 36 minutes
_EDGES_US = 2.0 ** (np.arange(_OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE)
_FOLD_AT = 1024
_DISTINCT_SIZES = 64
_GROWS = 1.25
"""Growth per execution of the short-run estimate, so that a model with increasing run times is noticed within a few."""
_SUMS = ("calls", "errors", "duration_us", "samples", "batches")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Times in microseconds. Quantiles are upper bounds, at most 9 % too high; 0 without values."""

    count: int = 0
    sum_us: float = 0.0
    p50_us: float = 0.0
    p95_us: float = 0.0
    p99_us: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()
    """(upper bound in us, number of values up to it), one per power of two."""

    @staticmethod
    def from_tally(tally: Mapping[str, Any]) -> Distribution:
        """What one or several histograms counted; see `Histogram.tally`."""
        counts = np.zeros(len(_EDGES_US), np.int64)
        for bucket, count in tally.get("counts", {}).items():
            counts[int(bucket)] = count
        total = np.cumsum(counts)
        count = int(total[-1])
        if not count:
            return Distribution()
        p50, p95, p99 = (float(_EDGES_US[np.searchsorted(total, math.ceil(q * count))]) for q in (0.50, 0.95, 0.99))
        octaves = slice(None, None, _PER_OCTAVE)
        buckets = tuple(zip(_EDGES_US[octaves].tolist(), total[octaves].tolist(), strict=True))
        return Distribution(count, tally.get("sum_s", 0.0) * 1e6, p50, p95, p99, buckets)


class Histogram:
    """Times in eight logarithmic buckets per octave, from 1 us to 36 minutes."""

    __slots__ = ("_counts", "_new", "_sum_s")

    def __init__(self) -> None:
        self._counts = np.zeros(len(_EDGES_US), np.int64)
        self._new: list[float] = []
        self._sum_s = 0.0

    def extend(self, seconds: Iterable[float]) -> None:
        """Count times in seconds."""
        self._new.extend(seconds)
        if len(self._new) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        values = np.array(self._new)
        self._new.clear()
        self._sum_s += float(values.sum())
        bucket = np.searchsorted(_EDGES_US, values * 1e6).clip(max=len(_EDGES_US) - 1)
        np.add.at(self._counts, bucket, 1)

    def tally(self) -> dict[str, Any]:
        """The counts, as numbers that can be added to those of another one; `Distribution.from_tally` reads them."""
        if self._new:
            self._fold()
        counts = {str(bucket): int(self._counts[bucket]) for bucket in np.flatnonzero(self._counts)}
        return {"counts": counts, "sum_s": self._sum_s}


@dataclass(frozen=True, slots=True)
class RunStats:
    """A model's counters.

    calls, errors: ended and failed runs.   duration_us: sum over successful runs.   samples: rows of the first output.
    batches: executions of the framework; calls / batches is the mean number of merged runs.
    batch_rows: rows per execution -> count; above 64, rows are counted under the next power of two.
    queue_time: from request to start.   run_time: per execution.   loads: number of loads in this process.
    last_error: text of the latest failure, "" without one.
    """

    calls: int = 0
    errors: int = 0
    duration_us: int = 0
    samples: int = 0
    batches: int = 0
    loads: int = 0
    last_error: str = ""
    queue_time: Distribution = field(default_factory=Distribution)
    run_time: Distribution = field(default_factory=Distribution)
    batch_rows: Mapping[int, int] = field(default_factory=dict)

    @staticmethod
    def from_tally(tally: Mapping[str, Any], last_error: str = "") -> RunStats:
        """What was counted of one model by one or several processes; see `ModelStats.tally`."""
        rows = sorted((int(size), count) for size, count in tally.get("batch_rows", {}).items())
        return RunStats(
            **{name: tally.get(name, 0) for name in (*_SUMS, "loads")},
            last_error=last_error,
            queue_time=Distribution.from_tally(tally.get("queue_time", {})),
            run_time=Distribution.from_tally(tally.get("run_time", {})),
            batch_rows=dict(rows),
        )


def samples(outputs: Sequence[Value]) -> int:
    """What a run adds to `samples`: dimension 0 of its first output, 0 if that has none. Source: AI.INFO."""
    first = outputs[0] if outputs else None
    return first.shape[0] if first is not None and first.shape else 0


class ModelStats:
    """Counts; see `RunStats` for the meaning.

    last_used: when it was loaded or began its last successful run, monotonic seconds.
    short_run_s: lower estimate of the seconds the framework recently took for a batch, without a thread's waiting time;
                 0 before the first.
    """

    __slots__ = (
        "_batch_rows",
        "_new",
        "_queue_time",
        "_run_time",
        "batches",
        "calls",
        "duration_us",
        "errors",
        "last_error",
        "last_used",
        "loads",
        "samples",
        "short_run_s",
    )

    def __init__(self) -> None:
        self.loads = 0
        self.last_used = self.short_run_s = 0.0
        self.reset()

    def reset(self) -> None:
        """Reset the counters, except the number of loads. Source: AI.INFO RESETSTAT."""
        self.calls = self.errors = self.duration_us = self.samples = self.batches = 0
        self.last_error = ""
        self._batch_rows: dict[int, int] = {}
        self._queue_time = Histogram()
        self._run_time = Histogram()
        self._new: list[tuple[int, float, Sequence[float], int, int]] = []

    def loaded(self, first: bool) -> None:
        """The model was loaded. first: not by another front door before."""
        self.loads += first
        self.last_used = time.monotonic()

    def executed(self, rows: int, run_s: float, waits_s: Sequence[float], calls: int, samples: int) -> None:
        """One execution of the framework succeeded.

        Args: waits_s: per member, its seconds in the queue.   calls: number of members to count; `succeeded` counts the
              others if necessary.   samples: rows of those together.
        """
        self.last_used = time.monotonic() - run_s
        short_s = self.short_run_s * _GROWS
        self.short_run_s = short_s if 0.0 < short_s < run_s else run_s
        new = self._new
        new.append((rows, run_s, waits_s, calls, samples))
        if len(new) >= _FOLD_AT:
            self._fold()

    def executed_singly(self, rows: int, run_s: float, outputs: Sequence[Value]) -> None:
        """The same of one request that was in no queue."""
        self.executed(rows, run_s, (0.0,), 1, samples(outputs))

    def _fold(self) -> None:
        new, self._new = self._new, []
        if not new:
            return
        # Column by column: a loop over the executions would cost each run as much as several of its other steps.
        all_rows, runs_s, waits_s, calls, samples = zip(*new, strict=True)
        for rows, count in Counter(all_rows).items():
            size = rows if rows <= _DISTINCT_SIZES else 1 << (rows - 1).bit_length()
            self._batch_rows[size] = self._batch_rows.get(size, 0) + count
        self._queue_time.extend(itertools.chain.from_iterable(waits_s))
        self._run_time.extend(runs_s)
        self.batches += len(new)
        self.calls += sum(calls)
        self.samples += sum(samples)
        self.duration_us += int((np.array(runs_s) * 1e6).astype(np.int64) @ np.array(calls, np.int64))

    def succeeded(self, calls: int, run_s: float, samples: int) -> None:
        """`calls` members of one execution succeeded, with `samples` rows together."""
        self.last_used = time.monotonic() - run_s
        self.calls += calls
        self.duration_us += calls * int(run_s * 1e6)
        self.samples += samples

    def failed(self, error: BaseException, calls: int = 1) -> None:
        """Runs failed."""
        self.calls += calls
        self.errors += calls
        self.last_error = str(error)

    def discount(self, run_s: float, samples: int, failed: bool) -> None:
        """Take back the count of a run whose command ran again. Not below 0: the counters may have been reset since."""
        self._fold()
        self.calls = max(0, self.calls - 1)
        if failed:
            self.errors = max(0, self.errors - 1)
        else:
            self.duration_us = max(0, self.duration_us - int(run_s * 1e6))
            self.samples = max(0, self.samples - samples)

    def snapshot(self) -> RunStats:
        """The current counters."""
        return RunStats.from_tally(self.tally(), self.last_error)

    def tally(self) -> dict[str, Any]:
        """The counters as numbers that can be added to those of another process; `RunStats.from_tally` reads them."""
        self._fold()
        return {
            **{name: getattr(self, name) for name in (*_SUMS, "loads")},
            "queue_time": self._queue_time.tally(),
            "run_time": self._run_time.tally(),
            "batch_rows": {str(size): count for size, count in self._batch_rows.items()},
        }


class StatsTable:
    """Counters by id; with too many, the least recently used are dropped first.

    Args: in_use: ids whose counters must stay, because other code counts in them too.
    """

    def __init__(self, limit: int = 10_000, in_use: Callable[[], Container[str]] = tuple) -> None:
        self._by_id: dict[str, ModelStats] = {}
        self._limit = limit
        self._in_use = in_use

    def of(self, run_id: str) -> ModelStats:
        """The counters of one id, all 0 at first."""
        stats = self._by_id.pop(run_id, None) or ModelStats()
        self._by_id[run_id] = stats
        if len(self._by_id) > self._limit:
            in_use = self._in_use()
            oldest = next(known for known in self._by_id if known == run_id or known not in in_use)
            if oldest != run_id:
                del self._by_id[oldest]
        return stats

    def known(self, run_id: str) -> ModelStats | None:
        """The counters of one id, if there are any; does not count as use."""
        return self._by_id.get(run_id)

    def snapshot(self, run_id: str) -> RunStats:
        """The current counters of one id, all 0 if there are none; does not count as use."""
        stats = self._by_id.get(run_id)
        return stats.snapshot() if stats is not None else RunStats()

    def tally(self, run_id: str) -> dict[str, Any]:
        """`ModelStats.tally` of one id, empty if there is none; no use of it."""
        stats = self._by_id.get(run_id)
        return stats.tally() if stats is not None else {}

    def reset(self, run_id: str) -> None:
        """Set the counters of one id to 0, if there are any."""
        if run_id in self._by_id:
            self._by_id[run_id].reset()

    def rename(self, before: str, run_id: str) -> None:
        """Move the counters of one id to another."""
        stats = self._by_id.pop(before, None)
        if stats is not None:
            self._by_id[run_id] = stats

    def forget(self, run_id: str) -> None:
        """Remove the counters of one id."""
        self._by_id.pop(run_id, None)
