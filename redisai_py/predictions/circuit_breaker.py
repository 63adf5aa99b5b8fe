"""Circuit breaker per identity: refusals turn look-ups or inserts off for a while; slow answers turn off inserts.
Slow look-ups have their own time limit. Pure: the caller passes the time, in monotonic seconds.
"""

from __future__ import annotations

__all__ = ["CircuitBreaker"]

_REFUSED_S = {"OOM": 10.0, "READONLY": 10.0, "NOPERM": 30.0, "NOAUTH": 30.0, "MISCONF": 10.0}
_FAILED_S = 1.0
_SLOW_S = 2.0
_SLOW_INSERT_S = 0.25


class CircuitBreaker:
    """The state of one identity."""

    __slots__ = ("_inserts_off_until", "_lookups_off_until", "reason")

    def __init__(self) -> None:
        self._lookups_off_until = self._inserts_off_until = 0.0
        self.reason = ""
        """Reason for the last time something was turned off."""

    def allows_lookups(self, now: float) -> bool:
        """Whether entries are looked up."""
        return now >= self._lookups_off_until

    def allows_inserts(self, now: float) -> bool:
        """Whether entries are inserted. An identity that cannot look up entries does not insert them."""
        return now >= self._inserts_off_until and now >= self._lookups_off_until

    def lookup_failed(self, text: str, now: float) -> str:
        """Redis refused a look-up, or is lost. Returns the kind of failure, for counting."""
        kind, self._lookups_off_until = self._failed(text, now)
        return kind

    def insert_failed(self, text: str, now: float) -> str:
        """Redis refused an insert, or is lost. Returns the kind of failure, for counting."""
        kind, self._inserts_off_until = self._failed(text, now)
        return kind

    def inserted(self, seconds: float, now: float) -> bool:
        """Record the time of an insert in seconds. Returns: whether it was too slow."""
        slow = seconds > _SLOW_INSERT_S
        if slow:
            self._inserts_off_until = now + _SLOW_S
            self.reason = f"an insert took {seconds * 1000:.0f} ms"
        return slow

    def _failed(self, text: str, now: float) -> tuple[str, float]:
        """The counted kind of a refusal, and the time until which nothing more is sent."""
        self.reason = text
        word = text.partition(" ")[0]
        return (word.lower(), now + _REFUSED_S[word]) if word in _REFUSED_S else ("redis", now + _FAILED_S)
