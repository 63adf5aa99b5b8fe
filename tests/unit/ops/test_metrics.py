"""Metrics as values: no server, no Redis."""

from __future__ import annotations

import math
import os
import re
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from redisai_py.engine.settings import ModelSnapshot
from redisai_py.engine.stats import ModelStats
from redisai_py.ops.aggregate import Aggregate
from redisai_py.ops.metrics import Figures, Metrics, Program, families
from redisai_py.ops.tallies import SERVER

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def stats() -> ModelStats:
    counters = ModelStats()
    counters.loads = 1
    counters.executed(3, 0.002, [0.001, 0.003], calls=2, samples=6)
    counters.executed(100, 40.0, [0.0], calls=1, samples=100)
    counters.failed(ValueError("bad"))
    return counters


def figures(**changes: Any) -> Figures:
    counts = {
        "commands": 100,
        "accepted": 6,
        "refused": 1,
        "internal_errors": 0,
        "executions": {"ONNX": 2},
        "loads": {"ONNX": 1},
        "runs_refused": 3,
        "runs_timed_out": 4,
        "deaths": {},
        "cpu": {"self_used_cpu_user": 1.5, "self_used_cpu_sys": 0.5},
        "worker_cpu": {},
    }
    model = ModelSnapshot("id", "ONNX", "CPU", 1000, 8, True)
    state = {
        "pid": os.getpid(),
        "obstacles": [],
        "clients": 5,
        "connections": {"shared": 1, "dedicated": 2, "private": 3},
        "queues": {"CPU": [2, 1, 7], "GPU:0": [1, 0, 0]},
        "models": [list(astuple(model))],
        "loading": 1,
        "workers": [],
        "pids": [],
        "quarantined": {},
        "limit": 10_000,
        "script_waiting": {"CPU": 2},
        "script_workers": 1,
        "backends": {"ONNX": "1.2"},
        "local_bytes": 0,
    }
    values: dict[str, Any] = {
        "server": Aggregate({SERVER: counts}, [state]),
        "ping_s": 0.001,
        "models": [Program(("m", "0", "CPU", "ONNX"), stats().snapshot(), 1000, 8)],
        "scripts": [Program(("s", "3", "CPU"), stats().snapshot())],
    }
    return Figures(**(values | changes))


def samples(shown: Figures) -> dict[str, float]:
    """Every sample of the text format, read back: `name{label="value"}` -> value."""
    text = generate_latest(Metrics(shown)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


MODEL = 'backend="ONNX",db="0",device="CPU",model="m"'


def test_numbers_are_where_they_belong() -> None:
    found = samples(figures())
    expected = {
        "redisai_ready": 1,
        "redisai_upstream_up": 1,
        "redisai_upstream_ping_seconds": 0.001,
        'redisai_upstream_connections{use="dedicated"}': 2,
        "redisai_clients": 5,
        "redisai_clients_accepted_total": 6,
        "redisai_clients_refused_total": 1,
        "redisai_commands_total": 100,
        'redisai_device_threads{device="CPU"}': 2,
        'redisai_device_running{device="CPU"}': 1,
        'redisai_device_waiting{device="CPU"}': 7,
        "redisai_runs_refused_total": 3,
        "redisai_runs_timed_out_total": 4,
        'redisai_executions_total{backend="ONNX"}': 2,
        "redisai_loaded_models": 1,
        "redisai_loaded_models_bytes": 1000,
        "redisai_loaded_models_limit_bytes": 10_000,
        "redisai_loading_models": 1,
        'redisai_backend_info{backend="ONNX",version="1.2"}': 1,
        f"redisai_model_runs_total{{{MODEL}}}": 4,
        f"redisai_model_errors_total{{{MODEL}}}": 1,
        f"redisai_model_samples_total{{{MODEL}}}": 106,
        f"redisai_model_loads_total{{{MODEL}}}": 1,
        f"redisai_model_loaded_bytes{{{MODEL}}}": 1000,
        f"redisai_model_unfinished_runs{{{MODEL}}}": 8,
        'redisai_script_runs_total{db="3",device="CPU",script="s"}': 4,
        'redisai_script_waiting{queue="CPU"}': 2,
        "redisai_script_workers": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["process_resident_memory_bytes"] > 0
    assert found["process_cpu_seconds_total"] == 2


def test_histograms_are_in_seconds_and_cumulative() -> None:
    found = samples(figures())

    def buckets(name: str) -> dict[float, float]:
        pattern = re.compile(rf'{name}_bucket{{.*le="(.+?)".*}}')
        return {float(m[1]): value for key, value in found.items() if (m := pattern.match(key))}

    runs = buckets("redisai_model_run_seconds")
    assert [count for bound, count in sorted(runs.items()) if bound < 0.002] == [0] * 7
    assert runs[0.002048] == 1
    assert (runs[33.554432], runs[math.inf]) == (1, 2)
    assert found[f"redisai_model_run_seconds_count{{{MODEL}}}"] == 2
    assert found[f"redisai_model_run_seconds_sum{{{MODEL}}}"] == pytest.approx(40.002)
    assert buckets("redisai_model_queue_seconds")[math.inf] == 3
    rows = buckets("redisai_model_batch_rows")
    assert (rows[2], rows[4], rows[64], rows[128], rows[math.inf]) == (0, 1, 1, 2, 2)
    unused = samples(figures(models=[Program(("m", "0", "CPU", "ONNX"), ModelStats().snapshot())]))
    assert not [name for name in unused if name.startswith("redisai_model_") and "_seconds" in name]
    assert unused[f"redisai_model_runs_total{{{MODEL}}}"] == 0


def test_without_redis_and_without_models() -> None:
    found = samples(figures(ping_s=None, models=[], scripts=[]))
    assert (found["redisai_upstream_up"], found["redisai_ready"]) == (0, 0)
    assert "redisai_upstream_ping_seconds" not in found
    assert not [name for name in found if name.startswith("redisai_model_")]


def test_openmetrics_and_strange_keys() -> None:
    name = 'a"b\\c\nd\u00e9'
    text = generate_openmetrics(Metrics(figures(models=[Program((name, "0", "CPU", "ONNX"), stats().snapshot())])))
    found = {sample.labels.get("model") for family in parse_openmetrics(text.decode()) for sample in family.samples}
    assert name in found


def test_every_metric_is_documented_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(redisai\w*)` \| (\w+) \|", DOCS.read_text(), re.MULTILINE))
    shown = {family.name: family.type for family in families(figures())}
    assert rows == shown
