"""Training with Redis: checkpoints, the record of a run, publishing while training, launching.

Redis holds data, checkpoints, published models and the state of runs. Gradients go through torch.distributed (gloo,
NCCL); docs/training.md says why. Needs the extra `train`. Names are imported on first use, so that the command line
can list runs without importing PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisai_py.training.checkpoint import Checkpoint, Checkpointer
    from redisai_py.training.publishing import Published, Publisher, publish
    from redisai_py.training.runs import Run
    from redisai_py.training.seeds import seed_step

__all__ = ["Checkpoint", "Checkpointer", "Published", "Publisher", "Run", "publish", "seed_step"]

_MODULES = {
    "Checkpoint": "checkpoint",
    "Checkpointer": "checkpoint",
    "Published": "publishing",
    "Publisher": "publishing",
    "Run": "runs",
    "publish": "publishing",
    "seed_step": "seeds",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
