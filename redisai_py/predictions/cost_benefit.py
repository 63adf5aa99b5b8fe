"""Whether look-ups pay: moving averages of run, look-up and insert times and of the hit rate. Pure: durations in,
decisions out.

A hit saves a run. A look-up costs its own time, and a miss also an insert. If the cost exceeds the saving, the cache
stands aside; it still looks up one input in 64, so that it notices when inputs repeat again.
"""

from __future__ import annotations

__all__ = ["CostBenefit"]

_HORIZON = 1000
_FIRST = 512
"""Look-ups before the hit rate counts, because a new cache is empty."""
_HOPELESS = 32
"""Look-ups after which the cache stands aside if a look-up takes longer than a run."""
_PROBES = 64
_CLEARLY = 1.25
"""Factor by which savings must exceed costs before the cache comes back."""
_CHECKED_EVERY = 32


class CostBenefit:
    """The figures of one model on one server, in seconds; 0 until measured."""

    __slots__ = ("_looked", "_runs", "aside", "hit_rate", "insert_s", "lookup_s", "reason", "run_s")

    def __init__(self) -> None:
        self.run_s = self.lookup_s = self.insert_s = self.hit_rate = 0.0
        self.aside = False
        """Whether look-ups do not pay."""
        self.reason = ""
        self._looked = self._runs = 0

    def ran(self, seconds: float) -> None:
        """Record the duration of a run in the framework."""
        self._runs += 1
        self.run_s += (seconds - self.run_s) / min(self._runs, 64)

    def inserted(self, seconds: float) -> None:
        """Record the time to send an entry to Redis."""
        self.insert_s = seconds if not self.insert_s else self.insert_s + (seconds - self.insert_s) / 64

    def looked(self, seconds: float, hit: float, times: int = 1) -> None:
        """Record look-ups: their mean time, including the digest, and hit: 1, 0, or the fraction of rows found."""
        before, self._looked = self._looked, self._looked + times
        weight = min(1.0, times / min(self._looked, _HORIZON))
        self.lookup_s += (seconds - self.lookup_s) * weight
        self.hit_rate += (hit - self.hit_rate) * weight
        if self._looked // _CHECKED_EVERY != before // _CHECKED_EVERY:
            self._decide()

    @property
    def saved_s(self) -> float:
        """Average saving per look-up."""
        return self.hit_rate * self.run_s

    @property
    def spent_s(self) -> float:
        """Average cost per look-up, including the insert after a miss."""
        return self.lookup_s + (1 - self.hit_rate) * self.insert_s

    def _decide(self) -> None:
        if not self.run_s:
            return
        if not self.aside:
            if self._looked >= _HOPELESS and self.run_s < self.lookup_s:
                self._turn(f"a run ({_us(self.run_s)}) is shorter than a look-up ({_us(self.lookup_s)})")
            elif self._looked >= _FIRST and self.saved_s < self.spent_s:
                self._turn(
                    f"hits save {_us(self.saved_s)} per request (hit rate {self.hit_rate:.2f}, "
                    f"run {_us(self.run_s)}), look-ups and inserts cost {_us(self.spent_s)}"
                )
        elif self._looked >= _PROBES and self.saved_s > _CLEARLY * self.spent_s:
            self._turn("")

    def _turn(self, reason: str) -> None:
        """Stand aside with a reason, or come back with an empty one, and restart the measurement."""
        self.aside = bool(reason)
        self.reason = reason
        self._looked = 0


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"
