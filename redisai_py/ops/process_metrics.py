"""prometheus_client's process metrics, summed over the front doors of a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

__all__ = ["process_families"]

_CPU = "process_cpu_seconds"
_LEAST = ("process_start_time_seconds", "process_max_fds")
"""The smallest of the processes' values is shown for these, not the sum."""


def process_families(pids: Sequence[int], cpu_s: float) -> Iterator[Metric]:
    """The metrics of the front doors with these process ids. Processes that have just ended are left out.

    Args: cpu_s: CPU time of all front doors in seconds, ended ones included.
    """
    found: dict[str, tuple[str, list[float]]] = {}
    for pid in pids:
        for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            for sample in family.samples:
                found.setdefault(family.name, (family.documentation, []))[1].append(sample.value)
    for name, (text, values) in found.items():
        if name == _CPU:
            yield CounterMetricFamily(name, text, value=cpu_s)
        else:
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric((), min(values) if name in _LEAST else sum(values))
            yield gauge
