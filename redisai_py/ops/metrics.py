"""The numbers for Prometheus, read from the engine on request, so runs count nothing extra for them.

There are two steps. `gather` reads what only the event loop's thread may read, in slices, so that no client waits for
it, and asks the server's other front doors; `families` turns that into metrics, on any thread. The number of labels is
bounded: a model or script is labelled by the key where it was last seen, and only the most recently used have labels. A
counter restarts at 0 when its key is stored again, and by AI.INFO RESETSTAT. docs/metrics.md lists all metrics; a test
compares.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from redisai_py import __version__
from redisai_py.engine.settings import EngineSnapshot
from redisai_py.engine.stats import RunStats
from redisai_py.errors import UpstreamError
from redisai_py.frontdoor.services import Services
from redisai_py.model import Kind
from redisai_py.ops.aggregate import Aggregate, aggregate
from redisai_py.ops.cache_metrics import Cache, cache_families, cache_of, time_buckets
from redisai_py.ops.keymap import key_text
from redisai_py.ops.process_metrics import process_families
from redisai_py.ops.tallies import MOST_LABELLED, ClientFigures, cache_topic, server_state

__all__ = ["Figures", "Metrics", "Program", "families", "gather"]

T = TypeVar("T")

_SLICE = 8
_LABELS = ("model", "db", "device", "backend")
_SCRIPT_LABELS = ("script", "db", "device")
_LONGEST_LABEL = 200
_DEVICES = {
    "threads": "Worker threads.",
    "running": "Batches that are being executed.",
    "waiting": "Runs of models that wait.",
}
_ROW_BUCKETS = [2**i for i in range(11)]


@dataclass(frozen=True, slots=True)
class Program:
    """A model or script: its label values, its counters, and the state of a loaded model.

    nbytes: memory, 0 if it is not loaded.   unfinished: waiting or running runs.
    quarantined: its runs are refused, because they ended engine processes.
    """

    labels: tuple[str, ...]
    stats: RunStats
    nbytes: int = 0
    unfinished: int = 0
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """All data for `families`. server: what its processes counted.   ping_s: None if Redis does not answer."""

    server: Aggregate
    ping_s: float | None
    models: Sequence[Program]
    scripts: Sequence[Program]
    caches: Sequence[Cache] = ()


async def gather(services: Services, clients: ClientFigures, obstacles: Callable[[], list[str]]) -> Figures:
    """Read everything, yielding to other work between slices, and send Redis a PING.

    Raises: RedisAIError: the server's other front doors cannot be asked.
    """
    try:
        ping_s: float | None = await services.control.ping()
    except UpstreamError:
        ping_s = None
    own = server_state(services, clients, obstacles())
    server = await aggregate(services, own, with_programs=True)
    return Figures(server, ping_s, *await _programs(server), _caches(server))


def _caches(server: Aggregate) -> list[Cache]:
    found = []
    for (database, key), active in server.caches().items():
        tally = server.figures.get(cache_topic(database, key), {})
        found.append(cache_of((_label(key), str(database)), tally, active))
    return found[-MOST_LABELLED:]


async def _programs(server: Aggregate) -> tuple[list[Program], list[Program]]:
    found: dict[Kind, dict[tuple[str, ...], Program]] = {Kind.MODEL: {}, Kind.SCRIPT: {}}
    loaded = {model.model_id: model for model in server.engine.models}
    quarantined = server.engine.isolation.quarantined
    for i, (kind, database, key, identity, backend, device) in enumerate(server.programs()[-MOST_LABELLED:]):
        if i % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        labels: tuple[str, ...] = (_label(key), str(database), device)
        stats = server.run_stats(kind, identity)
        if kind is Kind.SCRIPT:
            found[Kind.SCRIPT][labels] = Program(labels, stats)
            continue
        labels = (*labels, backend)
        model = loaded.get(identity)
        size, unfinished = (model.nbytes, model.unfinished) if model is not None else (0, 0)
        found[Kind.MODEL][labels] = Program(labels, stats, size, unfinished, identity in quarantined)
    return list(found[Kind.MODEL].values()), list(found[Kind.SCRIPT].values())


def _label(key: bytes) -> str:
    """The key as a label; a very long one is cut off, and its digest keeps it distinct."""
    text = key_text(key)
    if len(text) <= _LONGEST_LABEL:
        return text
    return f"{text[:_LONGEST_LABEL]}...{hashlib.sha256(key).hexdigest()[:12]}"


class Metrics(Collector):
    """Figures in the form that prometheus_client's encoders expect."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Our metrics, then those of the process."""
        for family in families(self._figures):
            family.samples = _Samples(family.samples)
            yield family
        server = self._figures.server
        cpu = server.counts["cpu"]
        yield from process_families(server.every("pid"), cpu["self_used_cpu_user"] + cpu["self_used_cpu_sys"])


class _Samples(list[Any]):
    """Samples that yield the GIL to the event loop's thread while they are encoded."""

    def __iter__(self) -> Iterator[Any]:
        return _giving_way(super().__iter__(), 32)


def _giving_way(items: Iterable[T], every: int) -> Iterator[T]:
    """The items, releasing the GIL now and then.

    A thread that waits for the GIL requests it only after 5 ms; with hundreds of models, a scrape would make that the
    99th percentile of every client's latency (measured: 5 ms without this, 0.2 ms with it).
    """
    for i, item in enumerate(items):
        if i % every == 0:
            time.sleep(0)
        yield item


def families(figures: Figures) -> Iterator[Metric]:
    """Our metrics, in the order of docs/metrics.md."""
    yield from _server(figures)
    yield from _engine(figures.server.engine, figures.server)
    yield from _models(figures.models)
    yield from _scripts(figures)
    yield from cache_families(figures.caches, figures.server.total("local_bytes"))


def _server(figures: Figures) -> Iterator[Metric]:
    yield InfoMetricFamily("redisai", "Versions.", {"version": __version__, "protocol": "1.2.7"})
    server, counts, up = figures.server, figures.server.counts, figures.ping_s is not None
    yield Gauge("redisai_ready", "1 if /readyz says so.", int(up and not server.obstacles))
    yield Gauge("redisai_upstream_up", "1 if Redis answered a PING of this scrape.", int(up))
    yield Gauge("redisai_upstream_ping_seconds", "How long that PING took; absent without an answer.", figures.ping_s)
    connections = server.summed("connections")
    yield _labelled(Gauge, "redisai_upstream_connections", "Open connections to Redis.", "use", connections)
    yield Gauge("redisai_clients", "Connected clients.", server.total("clients"))
    yield Counter("redisai_clients_accepted", "Connections accepted, refused ones included.", counts["accepted"])
    yield Counter("redisai_clients_refused", "Connections refused because of max_clients.", counts["refused"])
    yield Counter("redisai_commands", "Commands received, also those passed on to Redis.", counts["commands"])
    yield Counter(
        "redisai_internal_errors", "Errors that are bugs of the server; the log has them.", counts["internal_errors"]
    )


def _engine(engine: EngineSnapshot, server: Aggregate) -> Iterator[Metric]:
    for what, text in _DEVICES.items():
        numbers = {device: getattr(queue, what) for device, queue in engine.queues.items()}
        yield _labelled(Gauge, f"redisai_device_{what}", text, "device", numbers)
    yield Counter("redisai_runs_refused", "Runs refused because their model's queue was full.", engine.refused)
    yield Counter("redisai_runs_timed_out", "Runs whose TIMEOUT passed in the queue.", engine.timed_out)
    yield _labelled(Counter, "redisai_executions", "Calls of a framework.", "backend", engine.executions)
    yield Gauge("redisai_loaded_models", "Models in memory.", len(engine.models))
    yield Gauge("redisai_loaded_models_bytes", "Memory of the loaded models, by their size.", engine.loaded_bytes)
    yield Gauge("redisai_loaded_models_limit_bytes", "Bound on that; 0 is none.", server.states[0]["limit"])
    yield Gauge("redisai_loading_models", "Models that are being loaded.", engine.loading)
    backends = Gauge("redisai_backend_info", "1 for each backend imported.", labels=("backend", "version"))
    for item in server.union("backends").items():
        backends.add_metric(item, 1)
    yield backends
    isolation = engine.isolation
    yield Gauge("redisai_engine_processes", "Processes that load and run models or scripts.", len(isolation.pids))
    yield _labelled(Counter, "redisai_engine_process_deaths", "Engine processes that died.", "how", isolation.deaths)
    yield Gauge("redisai_quarantined_models", "Models in quarantine.", len(isolation.quarantined))


def _models(models: Sequence[Program]) -> Iterator[Metric]:
    yield from _runs("redisai_model", "model", _LABELS, models)
    samples = Counter("redisai_model_samples", "Rows of the runs' first outputs.", labels=_LABELS)
    loads = Counter("redisai_model_loads", "How often the model was loaded.", labels=_LABELS)
    size = Gauge("redisai_model_loaded_bytes", "Memory of the loaded model, 0 if it is not.", labels=_LABELS)
    unfinished = Gauge("redisai_model_unfinished_runs", "Runs waiting or running.", labels=_LABELS)
    quarantined = Gauge("redisai_model_quarantined", "1 if the model is in quarantine.", labels=_LABELS)
    rows = Histogram("redisai_model_batch_rows", "Rows per execution.", labels=_LABELS)
    for model in _giving_way(models, _SLICE):
        samples.add_metric(model.labels, model.stats.samples)
        loads.add_metric(model.labels, model.stats.loads)
        size.add_metric(model.labels, model.nbytes)
        unfinished.add_metric(model.labels, model.unfinished)
        quarantined.add_metric(model.labels, int(model.quarantined))
        if model.stats.batches:
            rows.add_metric(model.labels, *_row_buckets(model.stats))
    yield from (samples, loads, size, unfinished, quarantined, rows)


def _scripts(figures: Figures) -> Iterator[Metric]:
    yield from _runs("redisai_script", "script", _SCRIPT_LABELS, figures.scripts)
    text = "Runs and compilations of scripts that wait."
    yield _labelled(Gauge, "redisai_script_waiting", text, "queue", figures.server.summed("script_waiting"))
    yield Gauge("redisai_script_workers", "Processes that run scripts.", figures.server.total("script_workers"))


def _runs(prefix: str, noun: str, labels: tuple[str, ...], programs: Sequence[Program]) -> Iterator[Metric]:
    """Metrics common to models and scripts."""
    runs = Counter(f"{prefix}_runs", f"Runs of a {noun} that ended, well or not.", labels=labels)
    errors = Counter(f"{prefix}_errors", "Of these, the failed ones.", labels=labels)
    run = Histogram(f"{prefix}_run_seconds", "Time of an execution; a batch is one.", labels=labels)
    queue = Histogram(f"{prefix}_queue_seconds", "Time of a run in the queue.", labels=labels)
    for program in _giving_way(programs, _SLICE):
        stats = program.stats
        runs.add_metric(program.labels, stats.calls)
        errors.add_metric(program.labels, stats.errors)
        if stats.batches:  # histograms are most of the text, and these would be all zeros
            run.add_metric(program.labels, *time_buckets(stats.run_time))
            queue.add_metric(program.labels, *time_buckets(stats.queue_time))
    yield from (runs, errors, run, queue)


def _row_buckets(stats: RunStats) -> tuple[list[tuple[str, float]], float]:
    sizes = stats.batch_rows.items()
    buckets = [(str(bound), float(sum(count for rows, count in sizes if rows <= bound))) for bound in _ROW_BUCKETS]
    total = sum(count for _, count in sizes)
    return [*buckets, ("+Inf", float(total))], float(sum(rows * count for rows, count in sizes))


def _labelled(kind: type[Counter | Gauge], name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A metric with one label. values: by its value."""
    family = kind(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
