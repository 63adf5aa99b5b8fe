"""The counts and the state of this process as JSON, for the other front doors of the same server.

Counts are trees of numbers by topic, which can be added up (`redisai_py.serve.figures`). A state describes one living
process. A server of one process uses both as well, so metrics and INFO are computed in one way.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from redisai_py.ai.prediction_cache.records import CacheRecord
from redisai_py.model import Kind
from redisai_py.ops.keymap import ProgramKey

if TYPE_CHECKING:
    from redisai_py.frontdoor.services import Services

__all__ = [
    "MOST_LABELLED",
    "SERVER",
    "ClientFigures",
    "cache_topic",
    "counts_of",
    "program_topic",
    "recent",
    "record_tally",
    "server_counts",
    "server_state",
]

SERVER = "server"
MOST_LABELLED = 500
"""Keys that get labels of their own in the metrics: the most recently used."""


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """connected: clients.   private: clients with a connection to Redis of their own."""

    connected: int
    private: int


def program_topic(kind: Kind, identity: str) -> str:
    """The topic of a model's or script's counters."""
    return f"{kind.name} {identity}"


def cache_topic(database: int, key: bytes) -> str:
    """The topic of the prediction cache of a model key."""
    return f"CACHE {database} {key.hex()}"


def record_tally(record: CacheRecord) -> dict[str, Any]:
    """The counters of a model's prediction cache."""
    return {
        "counts": dict(record.counts),
        "bypassed": record.bypassed,
        "lookups": record.lookups.tally(),
        "inserts": record.inserts.tally(),
    }


def counts_of(services: Services, topics: Iterable[str]) -> dict[str, Any]:
    """The counts of these topics in this process. Topics without counts are left out."""
    found: dict[str, Any] = {}
    for topic in topics:
        kind, _, rest = topic.partition(" ")
        if topic == SERVER:
            found[topic] = server_counts(services)
        elif kind == "CACHE":
            database, _, key = rest.partition(" ")
            record = services.predictions.record(int(database), bytes.fromhex(key))
            if record is not None:
                found[topic] = record_tally(record)
        elif tally := services.stats(Kind[kind]).tally(rest):
            found[topic] = tally
    return found


def recent(services: Services) -> list[str]:
    """The topics shown in the metrics."""
    programs = services.keys.entries()[-MOST_LABELLED:]
    caches = services.predictions.records()[-MOST_LABELLED:]
    return [
        SERVER,
        *(program_topic(key.kind, entry.identity) for key, entry in programs),
        *(cache_topic(database, key) for database, key, _ in caches),
    ]


def server_counts(services: Services) -> dict[str, Any]:
    """All counts of this process since its start."""
    counters, engine = services.counters, services.engine.snapshot()
    return {
        "commands": counters.commands,
        "accepted": counters.accepted,
        "refused": counters.refused,
        "internal_errors": counters.internal_errors,
        "executions": dict(engine.executions),
        "loads": dict(engine.loads),
        "runs_refused": engine.refused,
        "runs_timed_out": engine.timed_out,
        "deaths": dict(engine.isolation.deaths),
        "cpu": _cpu(),
        "worker_cpu": {name: seconds for name, seconds in engine.worker_cpu_s.items() if seconds is not None},
    }


def _cpu() -> dict[str, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    of_thread = getattr(resource, "RUSAGE_THREAD", None)  # not on macOS
    seconds = {
        "self_used_cpu_sys": own.ru_stime,
        "self_used_cpu_user": own.ru_utime,
        "children_used_cpu_sys": children.ru_stime,
        "children_used_cpu_user": children.ru_utime,
    }
    if of_thread is not None:
        main = resource.getrusage(of_thread)
        seconds |= {"main_thread_used_cpu_sys": main.ru_stime, "main_thread_used_cpu_user": main.ru_utime}
    return seconds


def server_state(services: Services, clients: ClientFigures, obstacles: list[str]) -> dict[str, Any]:
    """The current state of this process."""
    engine = services.engine.snapshot()
    shared, dedicated = services.accesses.connection_counts()
    return {
        "pid": os.getpid(),
        "obstacles": obstacles,
        "clients": clients.connected,
        "connections": {"shared": shared, "dedicated": dedicated, "private": clients.private},
        "queues": {device: [q.threads, q.running, q.waiting] for device, q in engine.queues.items()},
        "models": [list(astuple(model)) for model in engine.models],
        "loading": engine.loading,
        "workers": list(engine.worker_cpu_s),
        "pids": list(engine.isolation.pids),
        "quarantined": dict(engine.isolation.quarantined),
        "limit": services.engine.settings.loaded_models_limit_bytes,
        "script_waiting": services.scripts.queue_depths(),
        "script_workers": len(services.scripts.worker_pids()),
        "script_queues": _script_queues(services),
        "backends": services.engine.backend_versions(),
        "script_framework": services.scripts.framework_version,
        "local_bytes": services.predictions.local.size_bytes,
        "programs": [_program(*entry) for entry in services.keys.entries()[-MOST_LABELLED:]],
        "caches": [
            [database, key.hex(), not (record.refusal or record.cost_benefit.aside)]
            for database, key, record in services.predictions.records()[-MOST_LABELLED:]
        ],
    }


def _program(key: ProgramKey, entry: Any) -> list[Any]:
    return [key.kind.name, key.database, key.key.hex(), entry.identity, entry.backend, entry.device]


def _script_queues(services: Services) -> list[str]:
    """INFO's names for the devices' workers that run scripts but no model. They are processes, not threads of this one,
    so they have no CPU time here.
    """
    devices = dict.fromkeys(entry.device.upper() for key, entry in services.keys.entries() if key.kind is Kind.SCRIPT)
    threads = range(1, services.engine.settings.threads_per_queue + 1)
    known = services.engine.snapshot().queues
    return [f"ai_queue_{name}_bthread_n{i}_used_cpu_total" for name in devices if name not in known for i in threads]
