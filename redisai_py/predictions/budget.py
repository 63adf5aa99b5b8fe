"""MAXBYTES: the bytes inserted for one model within the lifetime of an entry. Pure: the caller passes the time.

All servers share the same counters, one per sixteenth of a lifetime, each with an expiry. What was inserted more than
one lifetime ago has expired, so the sum is an upper bound of what Redis holds. No list of entries is needed.
"""

from __future__ import annotations

__all__ = ["Budget"]

_SPANS = 16
_AGAIN_S = 2.0
"""Seconds after which the counters of other servers are read again."""


class Budget:
    """The known values of one model's counters.

    Args: ttl_s: lifetime of an entry, in seconds.
    """

    __slots__ = ("_read_at", "_totals", "span_s", "ttl_s")

    def __init__(self, ttl_s: int) -> None:
        self.ttl_s = ttl_s
        self.span_s = max(1, -(-ttl_s // _SPANS))
        self._totals: dict[int, int] = {}
        self._read_at = float("-inf")

    def index(self, now_s: float) -> int:
        """The current counter. now_s: wall-clock time, which servers share."""
        return int(now_s // self.span_s)

    def window(self, now_s: float) -> list[int]:
        """The counters of entries that may still exist."""
        last = self.index(now_s)
        return list(range(last - -(-self.ttl_s // self.span_s), last + 1))

    @property
    def life_s(self) -> int:
        """Lifetime of a counter, in seconds."""
        return self.ttl_s + 2 * self.span_s

    def must_read(self, now: float) -> bool:
        """Whether to read the counters (again). now: monotonic seconds. True once per interval."""
        if now - self._read_at < _AGAIN_S:
            return False
        self._read_at = now
        return True

    def read(self, totals: dict[int, int]) -> None:
        """Take over the totals that Redis returned."""
        self._totals = {index: max(total, 0) for index, total in totals.items()}

    def counted(self, index: int, total: int) -> None:
        """Take over the total that INCRBY returned."""
        self._totals[index] = total

    def used(self, now_s: float) -> int:
        """Bytes inserted within the lifetime of an entry, as far as is known."""
        return sum(self._totals.get(index, 0) for index in self.window(now_s))

    def admit(self, size: int, limit: int, now_s: float) -> bool:
        """Whether `size` more bytes may be inserted. Counts them here immediately; the caller counts them in Redis."""
        if self.used(now_s) + size > limit:
            return False
        index = self.index(now_s)
        self._totals[index] = self._totals.get(index, 0) + size
        return True
