"""When a look-up pays: one client, by the time of a run and the size of its input.

    python -m benchmarks.prediction_cache.pays           a table; with --write also that of the page

Times are lower quintiles: what else the machine does makes some requests longer, and none shorter.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import numpy as np
from harness.servers import Target, servers
from harness.wire import Client

from benchmarks.prediction_cache.model import build_busy
from benchmarks.prediction_cache.report import PAGE

__all__ = ["main", "measure"]

_BEGIN, _END = "<!-- measured: benchmarks.prediction_cache.pays -->\n", "<!-- end of that -->\n"
_SIZES = (1024, 16 * 1024, 128 * 1024, 1024 * 1024)
_ITERATIONS = (1, 16, 64, 256)


def measure(requests: int = 150) -> list[dict[str, Any]]:
    """One row for each size and length of a run: milliseconds of a request without the cache, with a hit that this
    server has at hand, and with one from Redis.
    """
    rows = []
    with servers() as started:
        sides = {"at hand": started.redisai(), "from Redis": started.redisai("--prediction-cache-bytes", "0")}
        for size, iterations in itertools.product(_SIZES, _ITERATIONS):
            rows.append({"bytes": size, **_row(sides, size, iterations, requests)})
    return rows


def _row(sides: dict[str, Target], size: int, iterations: int, requests: int) -> dict[str, float]:
    features = size // 4
    blob = build_busy(features, iterations)
    row: dict[str, float] = {}
    for name, target in sides.items():
        with Client(target.port) as client:
            client.call("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
            client.call("AI.CACHE", "DEL", "m")
            client.call("AI.CACHE", "SET", "m", "TTL", "3600", "MINRUN", "0")
            data = np.random.default_rng(1).standard_normal(features).astype(np.float32).tobytes()
            client.call("AI.TENSORSET", "x", "FLOAT", "1", str(features), "BLOB", data)
            words = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
            for _ in range(5):
                client.call(*words, "CACHE", "REFRESH")
            time.sleep(0.05)
            if "run" not in row:
                row["run"] = _time(client, (*words, "CACHE", "NO"), requests)
            row[name] = _time(client, (*words, "CACHE", "ONLY") if name == "from Redis" else words, requests)
    return row


def _time(client: Client, words: tuple[str, ...], requests: int) -> float:
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        client.call(*words)
        times.append(time.perf_counter() - began)
    return float(np.percentile(times, 20)) * 1e3


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| input | request with a run | hit at hand | hit from Redis | run / hit from Redis |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = row["run"] / row["from Redis"]
        lines.append(
            f"| {row['bytes'] // 1024} KB | {row['run']:.2f} ms | {row['at hand']:.2f} ms | {row['from Redis']:.2f} ms "
            f"| {ratio:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table, and write the page if asked to."""
    text = table(measure())
    if "--write" in sys.argv[1:]:
        before, _, rest = PAGE.read_text().partition(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}{text}{_END}{rest.partition(_END)[2]}")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
