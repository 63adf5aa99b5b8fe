"""The line between the supervisor and the server's process: what goes over it, and how long a silence lasts.

The supervisor sends its orders first, one line of JSON. The server sends one word per line, some with an argument:

    alive            once a second, from the event loop: whatever keeps the loop from turning keeps this from coming
    ready            clients are served, and what is to be preloaded has been tried
    loading KEY      a model that is to be preloaded is being loaded now (KEY in hexadecimal digits)
    loaded KEY       it has been, or was refused

A silence is time in which the server could have run and gave no sign. What the machine withholds does not count: a
process that is stopped (SIGSTOP, a debugger), a machine that slept, a supervisor that was stopped itself, and cores
that others used. This module holds no event loop and no socket.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from redisai_py.config import Config

__all__ = ["ALIVE", "INTERVAL_S", "LOADED", "LOADING", "READY", "RESTART_STATUS", "Orders", "Progress", "Silence"]

INTERVAL_S = 1.0
"""Between two signs of life."""
RESTART_STATUS = 75
"""Exit status of a server that asks to be started again; EX_TEMPFAIL of sysexits.h."""
ALIVE = b"alive"
READY = b"ready"
LOADING = b"loading"
LOADED = b"loaded"

_LONGEST_TICK = 2.0
"""Of one look, in intervals: what is beyond that, the one who looks was stopped or asleep."""
_LEAST_SHARE = 0.5
"""However much others use the cores, a silence counts at least this fast."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a server's process is told at its start.

    suspects: keys that are not to be preloaded, since a process ended or hung while it loaded them.
    careful: a process ended while it loaded several, so load one at a time to find out which it was.
    """

    config: Config
    suspects: frozenset[bytes] = frozenset()
    careful: bool = False

    def to_line(self) -> bytes:
        """One line that `from_line` understands."""
        suspects = sorted(key.hex() for key in self.suspects)
        orders = {"config": self.config.to_json(), "suspects": suspects, "careful": self.careful}
        return json.dumps(orders).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Orders:
        """The inverse of `to_line`."""
        orders = json.loads(line)
        suspects = frozenset(map(bytes.fromhex, orders["suspects"]))
        return cls(Config.from_json(orders["config"]), suspects, orders["careful"])


class Silence:
    """How long a process has given no sign of life.

    Args: limit_s: when that is too long, 0 is never.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: float | None = None
        self.lasted_s = 0.0

    def look(self, now: float, heard: bool, share: float) -> bool:
        """Whether the silence is too long.

        Args: now: monotonic seconds.   heard: a sign has come since the last look.
              share: how much of the time that it wanted since then the process was granted, 0 to 1.
        """
        elapsed_s = 0.0 if self._last is None else min(now - self._last, _LONGEST_TICK * INTERVAL_S)
        self._last = now
        self.lasted_s = 0.0 if heard else self.lasted_s + elapsed_s * share
        return 0 < self._limit_s <= self.lasted_s


class Progress:
    """Whether a process may run, and how much of the cores that it wants it is granted, as Linux tells.

    Elsewhere every process counts as running.
    """

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc", str(pid))
        self._before: dict[str, tuple[int, int]] = {}

    def share(self) -> float:
        """Of the time since the last call: 0 for a process that is stopped, else from 0.5 to 1."""
        if self._stopped():
            return 0.0
        now = self._times()
        ran = waited = 0
        for thread, (run_ns, wait_ns) in now.items():
            run_before, wait_before = self._before.get(thread, (run_ns, wait_ns))
            ran += run_ns - run_before
            waited += wait_ns - wait_before
        self._before = now
        return max(_LEAST_SHARE, ran / (ran + waited)) if waited else 1.0

    def _stopped(self) -> bool:
        try:
            return (self._directory / "stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
        except (OSError, IndexError):
            return False

    def _times(self) -> dict[str, tuple[int, int]]:
        """Of each thread the nanoseconds that it ran, and that it waited for a core."""
        times = {}
        with contextlib.suppress(OSError):
            for thread in os.listdir(self._directory / "task"):
                with contextlib.suppress(OSError, ValueError):
                    ran, waited, _ = (self._directory / "task" / thread / "schedstat").read_text().split()
                    times[thread] = (int(ran), int(waited))
        return times
