"""Whether a batch may run on the event loop. Pure: durations in, decisions out.

A hop to a worker thread and back costs more than a tiny model's whole run. So a model with measurably short runs is run
on the event loop. Only measurements count: a kind of input (dtypes, shapes without dimension 0), with at most as many
rows as were measured to be short on a worker thread. A model that turns out slow returns to its thread for good.

Wall-clock time alone cannot distinguish a slow run from one that the operating system interrupted. So a slow run must
be confirmed by the thread's CPU time, unless it is far slower than the limit; without CPU time, it takes several slow
runs among few fast ones. docs/adr/0008-threads-and-the-gil.md.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["InlinePolicy"]

_SLOW = 2
"""A run of more than this many times the limit is slow; with other users of the cores, runs vary by less than this."""
_CLEARLY = 4
"""One run with CPU time of more than this many times the limit is enough."""
_BEYOND_DOUBT_S = 0.5
"""So is one of this duration by any clock: systems rarely make a process wait that long, and it blocked the loop."""
_STRIKES = 8.0
_FORGIVEN = 0.5
"""Amount by which a fast run reduces the count: if cores are scarce, the system interrupts one run in ten."""
_GIL_WAIT_S = 0.006
"""The interpreter's switch interval, 5 ms, and the switch itself."""
_KINDS = 64


class InlinePolicy:
    """Decides for one model. limit_s: longest run that counts as short, in seconds."""

    __slots__ = ("_rows", "_strikes", "doubtful", "enabled", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.enabled = limit_s > 0
        self.doubtful = self.enabled
        """Whether to measure the next run's CPU time, which costs a system call before and after it."""
        self.limit_s = limit_s
        self._strikes = 0.0
        self._rows: dict[Hashable, int] = {}  # kind of input -> most rows measured to be short

    def allows(self, key: Hashable, rows: int) -> bool:
        """Whether a batch of this kind and size may run on the event loop."""
        if self.enabled and rows <= self._rows.get(key, -1):
            return True
        self.doubtful = self.enabled
        return False

    def measured(self, key: Hashable, rows: int, run_s: float, cpu_s: float) -> None:
        """A batch took `run_s` on a worker thread, of which `cpu_s` CPU time.

        Inputs on a device (key None) never qualify. After the framework's work a worker waits for the GIL, up to the
        switch interval if the event loop is busy, so that much time without CPU use does not mean a slow run.
        """
        short = run_s <= self.limit_s or (cpu_s <= self.limit_s and run_s <= self.limit_s + _GIL_WAIT_S)
        if key is None or not short or rows <= self._rows.get(key, -1):
            return
        if key not in self._rows and len(self._rows) >= _KINDS:
            del self._rows[next(iter(self._rows))]
        self._rows[key] = rows

    def ran(self, run_s: float, cpu_s: float) -> None:
        """A batch took `run_s` on the event loop, of which `cpu_s` CPU time, 0 if not measured."""
        if run_s <= _SLOW * self.limit_s:
            if self._strikes:
                self._strikes = max(0.0, self._strikes - _FORGIVEN)
            self.doubtful = self._strikes > 0
            return
        self.doubtful = True
        self._strikes += 1
        clearly = cpu_s > _CLEARLY * self.limit_s or run_s > max(_BEYOND_DOUBT_S, _CLEARLY * self.limit_s)
        if clearly or self._strikes >= _STRIKES:
            self.enabled = False
