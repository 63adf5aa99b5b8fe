"""The training of `train.py`, with Ray instead of torchrun.

python -m examples.training.ray_train --url redis://HOST:6379 --run digits-1 --workers 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from redisai_py.training.ray import ray_trainer


def loop(config: dict[str, Any]) -> None:
    """On each worker; Ray has set up torch.distributed."""
    from examples.training.train import options, train

    train(options(config["arguments"]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="Redis, as the workers reach it")
    parser.add_argument("--run", required=True)
    parser.add_argument("--workers", type=int, default=2)
    args, rest = parser.parse_known_args(argv)
    ray_trainer(loop, args.url, args.run, workers=args.workers, config={"arguments": rest}).fit()


if __name__ == "__main__":
    main()
