"""The prediction cache's numbers as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from redisai_py.engine.stats import Distribution

__all__ = ["Cache", "cache_families", "cache_of", "time_buckets"]

_SHORTEST_BUCKET_US = 16.0
_LONGEST_BUCKET_US = 2.0**25
_LABELS = ("model", "db")
_COUNTS = {
    "hits": "Requests, or rows, whose prediction was found.",
    "misses": "Requests, or rows, whose prediction was not found.",
    "joined": "Requests that waited for the run of an equal one.",
    "inserts": "Predictions sent to Redis.",
    "bytes": "Their bytes.",
    "refreshes": "Predictions computed again shortly before their end.",
    "warmed": "Predictions computed in advance: by AI.CACHE WARM, or for a new version before it was stored.",
    "late": "Look-ups that Redis did not answer in time.",
    "damaged": "Values under a prediction's key that were none.",
    "full": "Predictions not kept because of MAXBYTES.",
}


@dataclass(frozen=True, slots=True)
class Cache:
    """The figures of one model: label values, counts by name, refusals by kind, times.

    active: requests are looked up; False if that does not pay or is refused.
    """

    labels: tuple[str, ...]
    counts: Mapping[str, int]
    errors: Mapping[str, int]
    lookups: Distribution
    inserts: Distribution
    active: bool


def cache_of(labels: tuple[str, ...], tally: Mapping[str, Any], active: bool) -> Cache:
    """The figures of the records of all front doors; see `redisai_py.ops.tallies`."""
    said = tally.get("counts", {})
    counts = {name: said.get(name, 0) for name in _COUNTS} | {"bypassed": tally.get("bypassed", 0)}
    start = "error "
    errors = {name.removeprefix(start): count for name, count in said.items() if name.startswith(start)}
    times = [Distribution.from_tally(tally.get(name, {})) for name in ("lookups", "inserts")]
    return Cache(labels, counts, errors, times[0], times[1], active)


def cache_families(caches: Sequence[Cache], local_bytes: int) -> Iterator[Metric]:
    """Metrics of all models.   local_bytes: size of the local predictions."""
    for name, text in {**_COUNTS, "bypassed": "Requests that ran without a look."}.items():
        counter = CounterMetricFamily(f"redisai_prediction_cache_{name}", text, labels=_LABELS)
        for cache in caches:
            counter.add_metric(cache.labels, cache.counts[name])
        yield counter
    name = "redisai_prediction_cache"
    errors = CounterMetricFamily(
        f"{name}_errors", "Look-ups and inserts that did not happen.", labels=(*_LABELS, "kind")
    )
    lookups = HistogramMetricFamily(f"{name}_lookup_seconds", "Time of a look-up.", labels=_LABELS)
    inserts = HistogramMetricFamily(f"{name}_insert_seconds", "Time of an insert.", labels=_LABELS)
    active = GaugeMetricFamily(f"{name}_state", "1 if requests are looked up, 0 if not.", labels=_LABELS)
    for cache in caches:
        active.add_metric(cache.labels, int(cache.active))
        for kind, count in cache.errors.items():
            errors.add_metric((*cache.labels, kind), count)
        if cache.lookups.count:
            lookups.add_metric(cache.labels, *time_buckets(cache.lookups))
        if cache.inserts.count:
            inserts.add_metric(cache.labels, *time_buckets(cache.inserts))
    local = GaugeMetricFamily(f"{name}_local_bytes", "Predictions at hand.")
    local.add_metric((), local_bytes)
    yield from (errors, lookups, inserts, active, local)


def time_buckets(times: Distribution) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts by upper bound in seconds, and the sum in seconds."""
    buckets = [
        (repr(bound_us / 1e6), float(count))
        for bound_us, count in times.buckets
        if _SHORTEST_BUCKET_US <= bound_us <= _LONGEST_BUCKET_US
    ]
    return [*buckets, ("+Inf", times.count)], times.sum_us / 1e6
