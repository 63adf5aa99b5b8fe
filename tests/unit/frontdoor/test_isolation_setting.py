"""Where `--isolation` takes models, by system."""

from __future__ import annotations

import sys

import pytest

from redisai_py.config import Config
from redisai_py.frontdoor.server import isolation
from redisai_py.machine import memory_bytes
from redisai_py.ops.keymap import KeyMap
from redisai_py.serve.preflight import StartError


def test_by_default_models_run_in_processes_that_leave_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    found = isolation(Config().resolved(), KeyMap())
    assert found.settings.isolation == "auto"
    assert 0.79 < found.settings.engine_memory_limit_bytes / memory_bytes() <= 0.8
    found.close()


def test_a_system_without_engine_processes_runs_models_elsewhere_and_refuses_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not isolation(Config().resolved(), KeyMap()).settings.runs_models
    with pytest.raises(StartError, match="--isolation all needs Linux"):
        isolation(Config(isolation="all"), KeyMap())


def test_none_is_none() -> None:
    assert not isolation(Config(isolation="none").resolved(), KeyMap()).settings.runs_models
