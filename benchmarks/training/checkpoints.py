"""Checkpoints to a local Redis in MB/s, beside one SET of the same bytes; and two processes beside one.

    python -m benchmarks.training.checkpoints [--mebibytes N] [--rounds N] [--steps N]

One line of JSON per row. `save` is the time until the checkpoint is there, `pause` the part of it in which training
waits, while the state is copied. Rounds are interleaved; the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
import torch

from examples.training.train import put_digits
from redisai_py.training import Checkpointer, Run
from tests.support import RedisServer, redis_binaries

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of the training with one process and with two; 0: none")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(next(iter(redis_binaries().values())), Path(directory))
        try:
            checkpoints(server.url, args.mebibytes, args.rounds)
            if args.steps:
                put_digits(server.url)
                processes(server.url, args.steps)
        finally:
            server.stop()


def checkpoints(url: str, mebibytes: int, rounds: int) -> None:
    """Rows `set`, `changed`, `unchanged`, `load`, and `memory`: what saving needs, as a multiple of the state."""
    tensors = [torch.randn(1024 * 1024) for _ in range(mebibytes // 4)]
    size = sum(tensor.numel() * 4 for tensor in tensors) / 1e6
    client = redis.Redis.from_url(url)
    whole = os.urandom(1024) * (mebibytes * 1024)
    taken: dict[str, list[float]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    copies = 0.0
    with Checkpointer(url, "bench", keep=1) as saver:
        for number in range(rounds):
            for tensor in tensors:
                tensor += 1
            began = time.perf_counter()
            future = saver.save(2 * number, state={"tensors": tensors})
            taken.setdefault("pause", []).append(time.perf_counter() - began)
            future.result()
            taken.setdefault("changed", []).append(time.perf_counter() - began)
            if not number:
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
                copies = grown / size
            taken.setdefault("unchanged", []).append(timed(lambda n=number: _save(saver, 2 * n + 1, tensors)))
            taken.setdefault("load", []).append(timed(saver.load))
            taken.setdefault("set", []).append(timed(lambda: client.set("whole", whole)))
            client.delete("whole")
    for row, seconds in taken.items():
        tell("checkpoint", row, megabytes_per_second=round(size / statistics.median(seconds)), megabytes=round(size))
    tell("checkpoint", "memory", copies_beside_the_state=round(copies, 2))


def _save(saver: Checkpointer, step: int, tensors: list[torch.Tensor]) -> None:
    saver.save(step, state={"tensors": tensors}).result()


def processes(url: str, steps: int) -> None:
    """Rows `1 process` and `2 processes`: rows a second of the example, with a hidden layer of 1024, batch 256."""
    for nproc in (1, 2):
        name = f"nproc-{nproc}"
        script = [str(ROOT / "examples/training/train.py"), "--steps", str(steps), "--hidden", "1024", "--batch", "256"]
        command = [
            sys.executable,
            "-m",
            "redisai_py",
            "train",
            "run",
            "--url",
            url,
            "--nproc",
            str(nproc),
            "--name",
            name,
        ]
        subprocess.run([*command, *script, "--every", str(steps)], check=True, cwd=ROOT, env=_environment())
        summary = Run(url, name).summary()
        seconds = float(summary["updated"]) - float(summary["started"])
        tell("training", f"{nproc} process{'es' * (nproc > 1)}", rows_per_second=round(steps * 256 / seconds))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def tell(benchmark: str, row: str, **figures: float) -> None:
    print(json.dumps({"benchmark": benchmark, "row": row, **figures}), flush=True)


if __name__ == "__main__":
    main()
