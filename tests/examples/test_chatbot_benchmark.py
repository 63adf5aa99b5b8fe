"""The comparison of the chatbot with traditional programs runs, and the documentation shows what it measured."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chatbot.report import PAGE, kept_rows, page_with, plot, table

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("fastapi", "flask", "gunicorn", "httptools", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return kept_rows()


def test_the_page_shows_the_kept_rows(rows: list[dict[str, Any]]) -> None:
    assert {(row["task"], row["conversations"]) for row in rows} == {
        (task, count) for task in ("gru", "network", "chatbot") for count in (1, 16, 64)
    }
    page = PAGE.read_text()
    assert page_with(page, rows) == page, "run: make bench-chatbot ARGS=--report"


def test_ratios_are_ours_to_theirs(rows: list[dict[str, Any]]) -> None:
    side = {"per_s": 100.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": 300.0, "redis_cpu_us": 100.0}
    ours = {**side, "per_s": 250.0, "cpu_us": 80.0, "redis_cpu_us": 20.0}
    row = {**rows[0], "sides": {"redisai": ours, "flask": side, "fastapi": side}}
    _, _, *lines = table([row]).splitlines()
    assert [line.split("|")[-3].strip() for line in lines] == ["", "2.5x", "2.5x"]
    assert [line.split("|")[-2].strip() for line in lines] == ["", "0.25x", "0.25x"]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_plot_is_a_picture(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    plot(rows, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="a redis-server is needed on PATH")
def test_all_sides_answer_alike_and_are_measured(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / name) for name in (".", "backends", "benchmarks"))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chatbot", "--smoke", "--models", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 + 3 * 3 * 3
