"""Log lines about models, scripts and clients: which are written, and which are left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from redisai_py.engine.reports import Executed
from redisai_py.model import Kind
from redisai_py.ops.event_log import EventLog, Throttle
from redisai_py.ops.keymap import KeyMap, ProgramKey


def program_key(key: str, database: int = 0) -> ProgramKey:
    return ProgramKey(Kind.MODEL, database, key.encode())


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
