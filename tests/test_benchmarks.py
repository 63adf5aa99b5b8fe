"""Every benchmark runs and gives lines that mean something; how fast is not asked here."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_RUN = _ROOT / "benchmarks" / "run.py"
_COMPARE = _ROOT / "benchmarks" / "compare.py"

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-benchmark")),
    reason="redis-server and redis-benchmark are needed on PATH",
)


def _python(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *words], capture_output=True, text=True, timeout=50, check=False, cwd=_ROOT
    )


def _run(*words: str) -> list[dict[str, Any]]:
    done = _python(_RUN, *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _check(line: dict[str, Any]) -> None:
    assert set(line) >= {"row", "ratio", "ratio_of", "sides", "commit", "machine", "versions", "settings", "at", "pace"}
    assert line["machine"]["cores"] >= 1
    assert math.isfinite(line["ratio"])
    assert line["ratio"] > 0
    _, over, _, under = line["ratio_of"].split()
    assert {over, under} <= set(line["sides"])
    for side, figures in line["sides"].items():
        assert figures["per_s"] > 0, side
        if "n" in figures:
            assert figures["n"] >= 1, side
            assert figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"], side


# One process per group, for each starts its servers: together they are all of the benchmarks (checked below).
_GROUPS = {
    ("tensor-io", "pass-through"): 18,
    ("model-run", "batching"): 14,
    ("one-trip", "wide-dag", "fraud-detection"): 12,
    ("web-service",): 18,
    ("web-service-modes",): 2,
    ("large", "large-neighbour", "slow-neighbour"): 5,
    ("parser", "codec"): 7,
    ("script-call",): 2,
    ("engine-processes",): 8,
    ("front-doors",): 12,
}


def test_groups_are_all_benchmarks() -> None:
    listed = _python(_RUN, "--list").stdout.split()
    assert sorted(listed) == sorted(name for group in _GROUPS for name in group)


@pytest.mark.parametrize("names", list(_GROUPS), ids="+".join)
def test_every_row_gives_a_line(names: tuple[str, ...]) -> None:
    if "script-call" in names:
        pytest.importorskip("torch")
    elif names[0].startswith("web-service"):
        pytest.importorskip("fastapi")
        pytest.importorskip("httptools")
    elif "parser" not in names:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    lines = _run(*names, "--smoke")
    for line in lines:
        _check(line)
    assert len(lines) == _GROUPS[names]
    assert len({line["row"] for line in lines}) == len(lines)


def test_unknown_name_is_refused() -> None:
    done = _python(_RUN, "no-such-benchmark")
    assert done.returncode == 2
    assert "no such benchmark: no-such-benchmark" in done.stderr


def _results(path: Path, rows: dict[str, tuple[float, float]]) -> str:
    lines = [
        {"row": name, "ratio": ratio, "sides": {"redisai": {"cpu_us": cpu_us}}}
        for name, (ratio, cpu_us) in rows.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_compare_shows_what_improved(tmp_path: Path) -> None:
    a = _results(tmp_path / "a.jsonl", {"same": (0.5, 10.0), "better": (0.2, 30.0), "only-in-a": (1.0, 1.0)})
    b = _results(tmp_path / "b.jsonl", {"better": (0.4, 10.0), "same": (0.5, 10.0)})
    done = _python(_COMPARE, a, b)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["same", "1.00", "1.00"],
        ["better", "2.00", "3.00"],
    ]


def test_compare_of_files_without_a_common_row_fails(tmp_path: Path) -> None:
    a = _results(tmp_path / "a.jsonl", {"x": (1.0, 1.0)})
    b = _results(tmp_path / "b.jsonl", {"y": (1.0, 1.0)})
    assert _python(_COMPARE, a, b).returncode == 1


def test_the_benchmark_of_training_data_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_data", "--smoke"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT / "benchmarks")},
    )
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stderr.splitlines()[-1])
    assert all(ratio > 0 for pair in ratios.values() for ratio in pair)
    for name in ("Redis shards", "DataLoader(TensorDataset)", "Parquet, zstd", "one key per row, a GET each"):
        assert f"\n| {name} |" in done.stdout
