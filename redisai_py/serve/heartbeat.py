"""The protocol between the supervisor and the server's process, and the measurement of silence.

The supervisor first sends its orders, one line of JSON. The server sends one word per line, some with an argument:

    serving          clients are accepted
    draining         clients are no longer accepted; the process is about to end
    alive            once a second, from the event loop, so a blocked loop stops it
    ready            clients are served, and all preloads have been tried
    loading KEY      the model at KEY (hexadecimal) is being preloaded
    loaded KEY       it was loaded or refused

Silence is time in which the server could have run and sent nothing. Time that the machine withholds does not count: a
stopped process (SIGSTOP, a debugger), a sleeping machine, a stopped supervisor, and cores that other processes used.
This module uses no event loop and no socket.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from redisai_py.config import Config

__all__ = [
    "ALIVE",
    "DRAINING",
    "INTERVAL_S",
    "LOADED",
    "LOADING",
    "READY",
    "RESTART_STATUS",
    "SERVING",
    "Orders",
    "Progress",
    "Silence",
]

INTERVAL_S = 1.0
"""Seconds between two heartbeats."""
RESTART_STATUS = 75
"""Exit status of a server that asks to be restarted; EX_TEMPFAIL of sysexits.h."""
ALIVE = b"alive"
READY = b"ready"
LOADING = b"loading"
LOADED = b"loaded"
SERVING = b"serving"
DRAINING = b"draining"

_LONGEST_TICK = 2.0
"""Maximum duration of one check, in intervals. Beyond that, the checking process itself was stopped or asleep."""
_LEAST_SHARE = 0.5
"""However much others use the cores, silence counts at least at this rate."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The instructions to a server's process at its start.

    suspects: keys not to preload, because a process ended or hung while it loaded them.
    careful: a process ended while it loaded several keys, so load one at a time to find the culprit.
    name: of the process, in its log lines.   door: its number among several, 0 if it is the only one.
    seat: its row in `DoorPage`.
    """

    config: Config
    suspects: frozenset[bytes] = frozenset()
    careful: bool = False
    name: str = "server"
    door: int = 0
    seat: int = 0

    def to_line(self) -> bytes:
        """One line for `from_line`."""
        suspects = sorted(key.hex() for key in self.suspects)
        orders = {"config": self.config.to_json(), "suspects": suspects, "careful": self.careful}
        return json.dumps({**orders, "name": self.name, "door": self.door, "seat": self.seat}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Orders:
        """The inverse of `to_line`."""
        orders = json.loads(line)
        suspects = frozenset(map(bytes.fromhex, orders["suspects"]))
        config = Config.from_json(orders["config"])
        return cls(config, suspects, orders["careful"], orders["name"], orders["door"], orders["seat"])


class Silence:
    """How long a process has been silent.

    Args: limit_s: seconds that are too long, 0 for never.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: float | None = None
        self.lasted_s = 0.0

    def look(self, now: float, heard: bool, share: float) -> bool:
        """Whether the silence is too long.

        Args: now: monotonic seconds.   heard: a heartbeat has come since the last check.
              share: the fraction of its wanted CPU time that the process got since then, 0 to 1.
        """
        elapsed_s = 0.0 if self._last is None else min(now - self._last, _LONGEST_TICK * INTERVAL_S)
        self._last = now
        self.lasted_s = 0.0 if heard else self.lasted_s + elapsed_s * share
        return 0 < self._limit_s <= self.lasted_s


class Progress:
    """Whether a process may run, and how much of the CPU time it wants it gets, from Linux.

    On other systems every process counts as running.
    """

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc", str(pid))
        self._before: dict[str, tuple[int, int]] = {}

    def share(self) -> float:
        """The share since the last call: 0 for a stopped process, otherwise 0.5 to 1."""
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
        """By thread, the nanoseconds it ran, and those it waited for a core."""
        times = {}
        with contextlib.suppress(OSError):
            for thread in os.listdir(self._directory / "task"):
                with contextlib.suppress(OSError, ValueError):
                    ran, waited, _ = (self._directory / "task" / thread / "schedstat").read_text().split()
                    times[thread] = (int(ran), int(waited))
        return times
