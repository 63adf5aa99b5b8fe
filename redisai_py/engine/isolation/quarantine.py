"""Models whose runs or loads ended their process, and how often in a row. Pure: no clock, no processes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIMIT", "Quarantine", "Strikes"]

LIMIT = 3
"""Consecutive deaths after which a model is no longer tried."""
_MOST = 10_000


@dataclass(slots=True)
class Strikes:
    """count: deaths since the last good run.   how: signal or status of the last one, or why the process was killed.
    in_load: whether that was in a load.
    """

    count: int
    how: str
    in_load: bool


class Quarantine:
    """Records by the model's identity. A model that is stored again has a new identity, and so a clean record.

    Thread: any; each method is one operation on a dict.
    """

    def __init__(self) -> None:
        self._strikes: dict[str, Strikes] = {}

    def struck(self, identity: str, how: str, in_load: bool) -> Strikes:
        """A process died because of this model."""
        before = self._strikes.get(identity)
        strikes = Strikes(1 if before is None else before.count + 1, how, in_load)
        self.record(identity, strikes)
        return strikes

    def record(self, identity: str, strikes: Strikes | None) -> None:
        """Take over what another process knows of a model. None: nothing."""
        if strikes is None:
            self._strikes.pop(identity, None)
            return
        if identity not in self._strikes and len(self._strikes) >= _MOST:
            self._strikes.pop(next(iter(self._strikes)), None)
        self._strikes[identity] = strikes

    def recall(self, identity: str, strikes: Strikes) -> bool:
        """Take over what somebody remembers of a model; False if nothing worse is known so."""
        before = self._strikes.get(identity)
        if before is not None and before.count >= strikes.count:
            return False
        self.record(identity, strikes)
        return True

    def records(self) -> dict[str, Strikes]:
        """All records."""
        return dict(self._strikes)

    def went_well(self, identity: str) -> None:
        """A run succeeded."""
        self._strikes.pop(identity, None)

    forget = went_well

    def rename(self, before: str, identity: str) -> Strikes | None:
        """A model has another identity now. Returns: its record, if it has one."""
        strikes = self._strikes.pop(before, None)
        if strikes is not None:
            self._strikes[identity] = strikes
        return strikes

    def reason(self, identity: str) -> str:
        """Why the model is in quarantine; empty if it is not."""
        strikes = self._strikes.get(identity)
        if strikes is None or strikes.count < LIMIT:
            return ""
        what = "loads" if strikes.in_load else "runs"
        return f"its engine process died in {strikes.count} {what} in a row, the last time by {strikes.how}"

    def reasons(self) -> dict[str, str]:
        """Models in quarantine."""
        return {identity: why for identity in list(self._strikes) if (why := self.reason(identity))}
