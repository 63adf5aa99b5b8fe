"""Measurements while the machine does little else: what others take cannot be measured away, but it can be waited out.

A server of one process and a program of several suffer differently from work beside them, so that a disturbed
measurement is unfair in one direction. Which ones are repeated depends on the rest of the machine alone, never on a
result.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
from harness.load import Sample
from harness.servers import Target

__all__ = ["Watch"]

_TRIES = 6
_OTHERS = 0.25
"""Cores that other processes may take during a measurement."""


class Watch:
    """Repeats disturbed measurements. others: cores that others took during each that was kept."""

    def __init__(self) -> None:
        self.others: list[float] = []

    def undisturbed(self, target: Target, measure: Callable[[], Sample]) -> Sample:
        """Measure until others took at most a quarter of a core, six times at most; then the least disturbed one."""
        found = []
        for _ in range(_TRIES):
            before, began = _others_s(target), time.monotonic()
            sample = measure()
            found.append(((_others_s(target) - before) / (time.monotonic() - began), sample))
            if found[-1][0] <= _OTHERS:
                break
        others, least_disturbed = min(found, key=lambda each: each[0])
        self.others.append(round(others, 2))
        return least_disturbed


def _others_s(target: Target) -> float:
    """CPU time so far of all processes but the target, its Redis and this one, in seconds."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    own = psutil.Process().cpu_times()
    upstream = target.upstream.cpu_seconds() if target.upstream else 0.0
    return float(busy - own.user - own.system - target.cpu_seconds() - upstream)
