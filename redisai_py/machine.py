"""Cores and memory that this process may use, considering the limits of its container or systemd unit.

A control group limits all groups below it, so the smallest limit between the root and the process's own group counts.
Inside a container, `/proc/self/cgroup` may show a path that exists only outside it; then the container's root counts.
Sources: cgroups(7); the kernel's cgroup-v2 (`cpu.max`, `memory.max`), and for version 1 sched-bwc and memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["granted_cores", "lower_priority", "memory_bytes", "usable_cores"]


def usable_cores() -> int:
    """Cores that the process may be scheduled on, at least 1: affinity, and Python's own `-X cpu_count` where it has
    one.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return int(os.process_cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def granted_cores(root: Path = Path("/")) -> float:
    """Cores that the process may use at the same time: `usable_cores`, or its CPU quota if that is less."""
    quotas = [_ratio(text) for text in _read(root, "cpu.max", "")]
    v1 = zip(_read(root, "cpu.cfs_quota_us", "cpu"), _read(root, "cpu.cfs_period_us", "cpu"), strict=False)
    quotas += [_ratio(f"{quota} {period}") for quota, period in v1]
    return min([float(usable_cores()), *(quota for quota in quotas if quota is not None)])


def memory_bytes(root: Path = Path("/")) -> int:
    """Memory of the machine, or of the process's control group if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_read(root, "memory.max", ""), *_read(root, "memory.limit_in_bytes", "memory")]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def lower_priority(nice: int) -> None:
    """Make the calling thread less urgent to the scheduler than the process's other threads: add to its nice value.

    On Linux, where each thread has a nice value, and 0 is the calling one (setpriority(2)); elsewhere nothing happens.
    """
    if nice and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + nice)


def _ratio(text: str) -> float | None:
    """`QUOTA PERIOD` in cores; None without a quota (`max`, or -1 in version 1)."""
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(quota) and int(period) else None


def _read(root: Path, name: str, controller: str) -> Iterator[str]:
    """The file's content in the process's control group and in all groups above it, if readable.

    controller: of version 1; empty for version 2.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mounted in [controllers] if controller else ["", "unified"]:
            own = PurePosixPath(mounted, path.lstrip("/"))
            for group in (own, *own.parents):
                if ".." in group.parts or (mounted and mounted not in group.parts):
                    continue
                try:
                    yield (root / "sys/fs/cgroup" / group / name).read_text().strip()
                except OSError:
                    continue
