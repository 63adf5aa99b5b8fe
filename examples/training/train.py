"""Train a classifier of handwritten digits on data in Redis; it survives whatever is killed.

    redisai train run examples/training/train.py --nproc 2 -- --steps 200

Started by torchrun, by Ray (`ray_train.py`), or alone. Each process takes its part of each step's batch; gradients are
averaged by torch.distributed. All that a restart needs is in the latest checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from redisai_py.artifacts import Store
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import put
from redisai_py.training import Checkpointer, Publisher, Run, seed_step

DATA = "digits"


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64, help="rows of a step, of all processes together")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--publish", metavar="KEY", help="serve the model under this key, at each checkpoint")
    parser.add_argument("--pause", type=float, default=0.0, metavar="S", help="sleep after each step")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="longest wait for other processes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = options(argv)
    if "RANK" in os.environ and not dist.is_initialized():
        # Unless told otherwise, processes wait half an hour for one that is lost; a restart needs a failure.
        dist.init_process_group("gloo", timeout=timedelta(seconds=args.timeout))
    train(args)
    if dist.is_initialized():
        dist.destroy_process_group()


def train(args: argparse.Namespace) -> None:
    run = Run.current()
    url = os.environ["REDISAI_URL"]
    data = RedisDataset(url, f"{DATA}@latest", batch_size=args.batch, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, args.hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(args.hidden, 10))
    parallel = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    example = torch.zeros(4, 64)
    publisher = Publisher(url, model, args.publish, [example], every=args.every, run=run.name) if args.publish else None
    run.begin(steps=args.steps, lr=1e-3, batch=args.batch, hidden=args.hidden, data=data.version)
    with Checkpointer(url, run.name, keep=3, best="loss") as checkpoints:
        found = checkpoints.load(model, optimizer, data)
        step = found.step if found else 0
        while step < args.steps:
            for batch in data.loader():
                step += 1
                loss = take_step(parallel, optimizer, batch, step)
                run.report(step, loss=loss)
                if step % args.every == 0 or step == args.steps:
                    checkpoints.save(step, model, optimizer, data, metrics={"loss": loss})
                    if publisher is not None:
                        publisher.step(step)
                time.sleep(args.pause)
                if step == args.steps:
                    break
    run.note(parameters=fingerprint(model))


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], step: int) -> float:
    """One step. Returns: the loss of this process's rows."""
    seed_step(0, step)  # so that dropout after a restart is what it would have been
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all parameters: equal for two trainings if they are equal bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def put_digits(url: str) -> None:
    """The digits of scikit-learn, as a data set in Redis."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    put(Store(url), DATA, {"x": (digits.data / 16).astype(np.float32), "y": digits.target.astype(np.int64)})


if __name__ == "__main__":
    main()
