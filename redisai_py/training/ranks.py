"""Rank and world size of this process, from torch.distributed or from torchrun's environment."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["rank", "ranks"]


def _distributed() -> Any:
    """torch.distributed if a process group exists; does not import PyTorch."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None


def rank() -> int:
    """The rank of this process, from 0."""
    group = _distributed()
    return int(group.get_rank()) if group is not None else int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """The number of processes that train together."""
    group = _distributed()
    return int(group.get_world_size()) if group is not None else int(os.environ.get("WORLD_SIZE", "1"))
