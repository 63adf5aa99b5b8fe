"""prometheus_client's metrics of a process, for a server of several: each figure is the sum of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

__all__ = ["process_families"]

_CPU = "process_cpu_seconds"
_LEAST = ("process_start_time_seconds", "process_max_fds")
"""Of these the least is shown."""


def process_families(pids: Sequence[int], cpu_s: float) -> Iterator[Metric]:
    """Of the front doors with these process ids; those that have just ended are left out.

    Args: cpu_s: CPU time of all of them, those that have ended too.
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
