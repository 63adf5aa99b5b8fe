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
    """What is known of one model's runs. A batch may run on the event loop if `short_rows` has its kind of input, with
    at least as many rows.

    Args: limit_s: longest run that counts as short, in seconds; 0 keeps all runs on the threads.
    """

    __slots__ = ("_strikes", "doubtful", "enabled", "limit_s", "short_rows", "slow_s")

    def __init__(self, limit_s: float) -> None:
        self.enabled = limit_s > 0
        self.doubtful = self.enabled
        """Whether to measure the CPU time of the next run on the event loop, which costs two system calls."""
        self.limit_s = limit_s
        self.slow_s = _SLOW * limit_s
        """A longer run on the event loop is slow."""
        self.short_rows: dict[Hashable, int] = {}
        """Kind of input -> most rows that were measured to be short; empty unless enabled."""
        self._strikes = 0.0

    def measured(self, key: Hashable, rows: int, run_s: float, cpu_s: float) -> None:
        """A batch took `run_s` on a worker thread, of which `cpu_s` CPU time.

        Inputs on a device (key None) never qualify. After the framework's work a worker waits for the GIL, up to the
        switch interval if the event loop is busy, so that much time without CPU use does not mean a slow run.
        """
        short = run_s <= self.limit_s or (cpu_s <= self.limit_s and run_s <= self.limit_s + _GIL_WAIT_S)
        known = self.short_rows
        if key is None or not short or not self.enabled or rows <= known.get(key, -1):
            return
        if key not in known and len(known) >= _KINDS:
            del known[next(iter(known))]
        known[key] = rows
        self.doubtful = True

    def ran(self, run_s: float, cpu_s: float) -> None:
        """A batch took `run_s` on the event loop, of which `cpu_s` CPU time, 0 if not measured. This changes nothing
        for a run that was not slow, unless in doubt.
        """
        if run_s <= self.slow_s:
            if self._strikes:
                self._strikes = max(0.0, self._strikes - _FORGIVEN)
            self.doubtful = self._strikes > 0
            return
        self.doubtful = True
        self._strikes += 1
        clearly = cpu_s > _CLEARLY * self.limit_s or run_s > max(_BEYOND_DOUBT_S, _CLEARLY * self.limit_s)
        if clearly or self._strikes >= _STRIKES:
            self.enabled = self.doubtful = False
            self.short_rows.clear()
