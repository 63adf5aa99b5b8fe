"""Rows: what is measured side by side, how often, and the JSON line that comes of it."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.load import Sample
from harness.servers import REDIS_OPTIONS

__all__ = ["Pace", "environment", "interleave", "row"]

_PACKAGES = ("redisai_py", "hiredis", "numpy", "onnxruntime", "redis", "torch", "uvloop")


@dataclass(frozen=True, slots=True)
class Pace:
    """How thorough to be. seconds: of one measurement.   rounds: measurements per side.   smoke: only to see that all
    works.
    """

    seconds: float = 1.0
    rounds: int = 3
    smoke: bool = False


def interleave(sides: Mapping[str, Callable[[], Sample]], pace: Pace) -> dict[str, dict[str, Any]]:
    """Measure A B A B ...; per side the median of each figure, and every round's rate.

    What disturbs the machine for a while then disturbs all sides.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for _ in range(pace.rounds):
        for name, measure in sides.items():
            samples[name].append(measure())
    return {name: _medians(each) for name, each in samples.items()}


def _medians(samples: list[Sample]) -> dict[str, Any]:
    columns = {field.name: [asdict(sample)[field.name] for sample in samples] for field in fields(Sample)}
    medians = {name: round(statistics.median(values), 4) for name, values in columns.items()}
    return {**medians, "n": sum(columns["n"]), "rounds_per_s": [round(rate, 1) for rate in columns["per_s"]]}


def row(
    name: str, sides: Mapping[str, Mapping[str, Any]], over: str, under: str, *, figure: str = "per_s", **facts: Any
) -> dict[str, Any]:
    """A result: the figures of every side, and the ratio of `figure` of side `over` to that of side `under`.

    A ratio of latencies is turned round, so that more is better in every row.
    """
    a, b = float(sides[over][figure]), float(sides[under][figure])
    ratio = a / b if figure == "per_s" else b / a
    return {"row": name, "ratio": round(ratio, 4), "ratio_of": f"{figure} {over} / {under}", **facts, "sides": sides}


def environment(pace: Pace) -> dict[str, Any]:
    """What a figure depends on: the commit, the machine, versions, settings."""
    return {
        "commit": _commit(),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu(), "load_1_min": round(os.getloadavg()[0], 2)},
        "versions": {
            "python": platform.python_version(),
            "redis-server": _redis_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "settings": {"redis": " ".join(REDIS_OPTIONS), "clients_by": "TCP", "upstream_by": "unix socket"},
        "pace": asdict(pace),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "../../redisai_py", "../../backends")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _redis_version() -> str:
    done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False)
    return json.dumps(done.stdout.strip())[1:60]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
