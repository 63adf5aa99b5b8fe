"""Whether an identity's Redis takes part: refusals and delays turn look-ups or inserts off for a while. Pure: the
clock is the caller's, in monotonic seconds.
"""

from __future__ import annotations

__all__ = ["Health"]

_REFUSED_S = {"OOM": 10.0, "READONLY": 10.0, "NOPERM": 30.0, "NOAUTH": 30.0, "MISCONF": 10.0}
_FAILED_S = 1.0
_LATE_S = 1.0
_MOST_LATE = 3
"""Look-ups in a row that were not answered in time."""
_SLOW_INSERT_S = 0.25


class Health:
    """That of one identity."""

    __slots__ = ("_inserts_off_until", "_late", "_lookups_off_until", "reason")

    def __init__(self) -> None:
        self._lookups_off_until = self._inserts_off_until = 0.0
        self._late = 0
        self.reason = ""
        """Why something was turned off, the last time."""

    def looks(self, now: float) -> bool:
        """Whether entries are looked up."""
        return now >= self._lookups_off_until

    def inserts(self, now: float) -> bool:
        """Whether entries are inserted. Who cannot look them up does not."""
        return now >= self._inserts_off_until and now >= self._lookups_off_until

    def late(self, now: float) -> None:
        """A look-up was not answered in time."""
        self._late += 1
        if self._late >= _MOST_LATE:
            self._lookups_off_until = now + _LATE_S
            self.reason = "look-ups were not answered in time"

    def answered(self) -> None:
        """A look-up was answered in time."""
        self._late = 0

    def lookup_failed(self, text: str, now: float) -> str:
        """Redis refused a look-up, or is lost. Returns the kind of refusal, for counting."""
        kind, pause_s = _kind(text)
        self._lookups_off_until = now + pause_s
        self.reason = text
        return kind

    def insert_failed(self, text: str, now: float) -> str:
        """Redis refused an insert, or is lost. Returns the kind of refusal, for counting."""
        kind, pause_s = _kind(text)
        self._inserts_off_until = now + pause_s
        self.reason = text
        return kind

    def inserted(self, seconds: float, now: float) -> bool:
        """Redis took an entry after so long; whether that was too long."""
        slow = seconds > _SLOW_INSERT_S
        if slow:
            self._inserts_off_until = now + _LATE_S
            self.reason = f"an insert took {seconds * 1000:.0f} ms"
        return slow


def _kind(text: str) -> tuple[str, float]:
    """What a refusal is counted as, and for how long nothing more is sent."""
    word = text.partition(" ")[0]
    if word in _REFUSED_S:
        return word.lower(), _REFUSED_S[word]
    return "redis", _FAILED_S
