"""`python -m benchmarks.training_data`: measure all sides in turn, and report. Needs `benchmarks` on PYTHONPATH."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from harness.report import Pace, environment
from harness.servers import Target, servers

from benchmarks.training_data.report import table, write_report
from benchmarks.training_data.sides import BATCH, Figures, Places, measured

_ROWS = 262_144
_STEPS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write results and documentation if asked to; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="once and briefly: shows that all works, not how fast")
    parser.add_argument("--rounds", type=int, default=7, help="measurements per side, interleaved (default: 7)")
    parser.add_argument("--write", action="store_true", help="keep the results, and write the docs' table")
    args = parser.parse_args(argv)
    result = measure(1 if args.smoke else args.rounds, 8192 if args.smoke else _ROWS, 2 if args.smoke else _STEPS)
    if args.write:
        write_report(result)
    print(table(result), end="")
    print(json.dumps(result["ratios"]), file=sys.stderr)
    return 0


def measure(rounds: int, rows: int, steps: int) -> dict[str, Any]:
    """The figures of every side, and what they depend on."""
    # One half of the cores for training, the other for what brings the data. More threads than free cores wait for
    # each other in every operation, and that would be measured.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    facts = environment(Pace(0, rounds))
    with servers() as started, tempfile.TemporaryDirectory() as directory:
        places = Places(f"unix://{started.socket_path}", Path(directory), rows)
        redis = started.redis
        sides = {**places.all()}
        found: dict[str, list[Figures]] = {name: [] for name in sides}
        training = Training(places, redis, steps)
        for number in range(rounds):
            for name, batches in sides.items():
                found[name].append(measured(redis, batches))
            training.take_turn()
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        figures = {name: _median(each) for name, each in found.items()}
        figures |= training.figures()
        sizes = {"samples": places.x.nbytes + places.y.nbytes, **places.sizes}
    return {
        "rows": rows,
        "sizes": sizes,
        "sides": figures,
        "ratios": _ratios(found, training),
        "threads": torch.get_num_threads(),
        **facts,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class Training:
    """Steps of an MLP 64-1024-1024-10 on batches that are in memory already, and on batches from Redis."""

    def __init__(self, places: Places, redis: Target, steps: int) -> None:
        self._places, self._redis, self._steps = places, redis, steps
        self._ready = [batch for _, batch in zip(range(steps), places.slicing(), strict=False)]
        layers = [torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
        self._model = torch.nn.Sequential(*layers, torch.nn.Linear(1024, 10))
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01)
        self.found: dict[str, list[Figures]] = {"MLP, batches in memory": [], "MLP, Redis shards": []}

    def take_turn(self) -> None:
        """One measurement of each, whichever comes first."""
        sides = {
            "MLP, batches in memory": lambda: self._train(iter(self._ready)),
            "MLP, Redis shards": lambda: self._train(self._places.redis_shards("raw")),
        }
        order = list(sides) if len(self.found["MLP, Redis shards"]) % 2 else list(reversed(sides))
        for name in order:
            self.found[name].append(measured(self._redis, sides[name], self._steps))

    def _train(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(self._model(batch["x"]), batch["y"])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            yield batch

    def figures(self) -> dict[str, dict[str, float]]:
        """Medians, with the time of a step."""
        return {
            name: {**_median(each), "step_ms": round(BATCH / statistics.median(f.per_s for f in each) * 1000, 3)}
            for name, each in self.found.items()
        }


def _median(found: Sequence[Figures]) -> dict[str, Any]:
    return {
        "per_s": round(statistics.median(each.per_s for each in found)),
        "per_cpu_s": round(statistics.median(each.per_s / max(each.cores, 0.01) for each in found)),
        "cores": round(statistics.median(each.cores for each in found), 2),
        "rounds_per_s": [round(each.per_s) for each in found],
    }


def _ratios(found: dict[str, list[Figures]], training: Training) -> dict[str, list[float]]:
    """By the clock and by CPU time. By the clock: medians of the ratios within each round, since what disturbs the
    machine for a while disturbs both sides of it.
    """

    def ratio(over: list[Figures], under: list[Figures]) -> list[float]:
        clock = statistics.median(a.per_s / b.per_s for a, b in zip(over, under, strict=True))
        return [round(clock, 3), round(_median(over)["per_cpu_s"] / _median(under)["per_cpu_s"], 3)]

    shards, packed = found["Redis shards"], found["Redis shards, zstd"]
    steps = training.found
    return {
        "Redis shards / DataLoader(TensorDataset)": ratio(shards, found["DataLoader(TensorDataset)"]),
        "Redis shards / Parquet, uncompressed": ratio(shards, found["Parquet, uncompressed"]),
        "Redis shards, zstd / Parquet, zstd": ratio(packed, found["Parquet, zstd"]),
        "Redis shards, zstd / Redis shards": ratio(packed, shards),
        "Redis shards / one key per row, a GET each": ratio(shards, found["one key per row, a GET each"]),
        "time of a step with the loader / without": ratio(steps["MLP, batches in memory"], steps["MLP, Redis shards"]),
    }


if __name__ == "__main__":
    raise SystemExit(main())
