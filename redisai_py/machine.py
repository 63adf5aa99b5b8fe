"""What this machine, or the container, gives to this process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["granted_cores", "memory_bytes", "usable_cores"]


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def granted_cores() -> float:
    """Cores that this process may use at the same time: the machine's, or fewer if its container has a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return usable_cores()
    return min(usable_cores(), int(quota) / int(period)) if quota.isdigit() else usable_cores()


def memory_bytes() -> int:
    """Memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
