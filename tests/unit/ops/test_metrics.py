"""Metrics, the key map and the event log, as values: no server, no Redis."""

from __future__ import annotations

import asyncio
import math
import re
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from redisai_py.engine.reports import Executed
from redisai_py.engine.settings import EngineSnapshot, ModelSnapshot, QueueSnapshot
from redisai_py.engine.stats import ModelStats
from redisai_py.model import Kind
from redisai_py.ops.event_log import EventLog, Throttle
from redisai_py.ops.http import HttpEndpoint, Response
from redisai_py.ops.keymap import KeyMap, ProgramEntry, ProgramKey
from redisai_py.ops.metrics import Figures, Metrics, Program, families

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def stats() -> ModelStats:
    counters = ModelStats()
    counters.loads = 1
    counters.executed(3, 0.002, [0.001, 0.003], calls=2, samples=6)
    counters.executed(100, 40.0, [0.0], calls=1, samples=100)
    counters.failed(ValueError("bad"))
    return counters


def figures(**changes: Any) -> Figures:
    engine = EngineSnapshot(
        queues={"CPU": QueueSnapshot(2, 1, 7), "GPU:0": QueueSnapshot(1, 0, 0)},
        models=(ModelSnapshot("id", "ONNX", "CPU", 1000, 8, True),),
        loaded_bytes=1000,
        loading=1,
        worker_cpu_s={},
        executions={"ONNX": 2},
        loads={"ONNX": 1},
        refused=3,
        timed_out=4,
    )
    values: dict[str, Any] = {
        "ready": True,
        "ping_s": 0.001,
        "connections": {"shared": 1, "dedicated": 2, "private": 3},
        "clients": 5,
        "clients_total": 6,
        "refused_clients": 1,
        "commands": 100,
        "internal_errors": 0,
        "engine": engine,
        "loaded_limit_bytes": 10_000,
        "script_waiting": {"CPU": 2},
        "script_workers": 1,
        "backends": {"ONNX": "1.2"},
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
    found = samples(figures(ping_s=None, ready=False, models=[], scripts=[], backends={}))
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


# -- keys --------------------------------------------------------------------------------------------------------------


def program_key(key: str, database: int = 0) -> ProgramKey:
    return ProgramKey(Kind.MODEL, database, key.encode())


def held(stored_id: str) -> ProgramEntry:
    return ProgramEntry(f"id {stored_id}", stored_id, "ONNX", "CPU")


def test_a_replaced_id_is_told_once() -> None:
    keys = KeyMap()
    assert keys.put(program_key("k"), held("1")) is None
    assert keys.put(program_key("k"), held("1")) is None
    assert keys.put(program_key("k"), held("2")) == "1"
    assert keys.key_of("1") is None
    assert keys.key_of("2") == program_key("k")
    assert keys.forget(program_key("k")) == "2"
    assert keys.forget(program_key("k")) is None
    assert keys.entries() == []


def test_an_id_that_two_keys_have_is_kept_until_the_last_goes() -> None:
    keys = KeyMap()
    keys.put(program_key("a"), held("1"))
    keys.put(program_key("b", 3), held("1"))
    assert keys.key_of("1") == program_key("b", 3)
    assert keys.forget(program_key("b", 3)) is None
    assert keys.key_of("1") == program_key("a")
    assert keys.put(program_key("a"), held("2")) == "1"


def test_an_id_has_a_name_while_it_is_loaded_and_afterwards_only_if_a_key_holds_it() -> None:
    keys = KeyMap()
    keys.announce("1", program_key("a"))
    assert keys.key_of("1") == program_key("a")
    keys.withdraw("1")
    assert keys.key_of("1") is None
    keys.put(program_key("b"), held("2"))
    keys.announce("2", program_key("c"))
    keys.withdraw("2")
    assert keys.key_of("2") == program_key("b")
    keys.withdraw("3")


def test_the_longest_unmet_go_first() -> None:
    keys = KeyMap(limit=2)
    keys.put(program_key("a"), held("1"))
    keys.put(program_key("b"), held("2"))
    keys.put(program_key("a"), held("1"))
    keys.put(program_key("c"), held("3"))
    assert [where.name for where, _ in keys.entries()] == ["a", "c"]
    assert keys.key_of("2") is None
    assert keys.get(program_key("b")) is None


def test_keys_that_are_no_text_have_a_name() -> None:
    assert ProgramKey(Kind.MODEL, 0, b"a\xff").name == "a\\xff"


# -- event log ------------------------------------------------------------------------------------------------------


def test_a_throttle_lets_one_of_each_name_through_and_counts_the_rest() -> None:
    now = 0.0
    throttle = Throttle(10, lambda: now, names=2)
    assert [throttle.passes("a") for _ in range(3)] == [0, None, None]
    assert throttle.passes("b") == 0
    now = 10.0
    assert throttle.passes("a") == 2
    assert throttle.passes("a") is None
    assert throttle.passes("c") == 0  # and b, the longest unseen, is forgotten
    assert throttle.passes("b") == 0


def test_lines_of_one_key_do_not_hide_those_of_another() -> None:
    now = 0.0
    event_log = EventLog(KeyMap(), 1000, lambda: now)
    with capture_logs() as lines:
        for key in ("a", "a", "b"):
            event_log.script_failed(program_key(key), "f", "CPU", ValueError("no"))
        now = 20.0
        event_log.script_failed(program_key("a"), "f", "CPU", ValueError("no"))
    assert [(line["script"], line.get("left_out")) for line in lines] == [("a", None), ("b", None), ("a", 1)]
    assert lines[0] == {
        "event": "script failed", "script": "a", "db": 0, "function": "f", "device": "CPU", "error": "no",
        "log_level": "warning",
    }  # fmt: skip


def test_a_slow_run_is_reported_also_where_it_was_in_no_queue() -> None:
    named = SimpleNamespace(id="1", backend="ONNX", device=SimpleNamespace(text="CPU"))
    executed = Executed(cast(Any, SimpleNamespace(id="1", model=named)), runs=0, run_s=2.0, queued_s=0.0)
    with capture_logs() as lines:
        EventLog(KeyMap(), 1000).executed(executed, None)
    assert [(line["event"], line["id"], line["ms"], line["queued_ms"]) for line in lines] == [
        ("slow run", "1", 2000.0, 0.0)
    ]


def test_only_slow_scripts_are_reported() -> None:
    with capture_logs() as lines:
        event_log = EventLog(KeyMap(), 1000)
        event_log.script_ran(program_key("s"), "f", "CPU", 0.9, 5.0)
        event_log.script_ran(program_key("s"), "f", "CPU", 1.0, 0.001)
        EventLog(KeyMap(), 0).script_ran(program_key("s"), "f", "CPU", 1e6, 0)
    assert [(line["event"], line["ms"], line["queued_ms"]) for line in lines] == [("slow script", 1000.0, 1.0)]


# -- HTTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /x HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        (b"GET /x?a=b HTTP/1.0\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nHost: 127.9.9.9\r\nAccept: a\r\nAccept: b\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        (b"HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /X HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /x HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        (b"GET /x HTTP/2\r\n\r\n", 400),
        (b"GET /x\r\n\r\n", 400),
        (b"GET http://[x HTTP/1.1\r\n\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 400),
    ],
)
def test_requests(request_: bytes, status: int) -> None:
    async def scenario() -> bytes:
        async def handler(headers: Any) -> Any:
            return Response(HTTPStatus.OK, repr(headers.get("accept")).encode())

        endpoint = HttpEndpoint({"/x": handler})
        await endpoint.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        writer.write(request_)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await endpoint.close()
        return answer

    answer = asyncio.run(scenario())
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (body == b"") == request_.startswith(b"HEAD")
    if b"Accept" in request_:
        assert body == b"'a, b'"
    if not request_.startswith(b"HEAD"):
        assert b"Content-Length: %d" % len(body) in head
