"""MAXBYTES: how many bytes of one model were inserted within the life of an entry. Pure: the clock is the caller's.

All servers count in the same keys, one per sixteenth of a life, each of which expires by itself. What was inserted
longer ago than a life has expired, so the sum is never less than what Redis holds; no entry is listed anywhere.
"""

from __future__ import annotations

__all__ = ["Budget"]

_SPANS = 16
_AGAIN_S = 2.0
"""Counters of other servers are read again after so long."""


class Budget:
    """What is known of the counters of one model.

    Args: ttl_s: life of an entry.
    """

    __slots__ = ("_read_at", "_totals", "span_s", "ttl_s")

    def __init__(self, ttl_s: int) -> None:
        self.ttl_s = ttl_s
        self.span_s = max(1, -(-ttl_s // _SPANS))
        self._totals: dict[int, int] = {}
        self._read_at = float("-inf")

    def index(self, now_s: float) -> int:
        """The counter that counts now. now_s: of the wall clock, which servers share."""
        return int(now_s // self.span_s)

    def window(self, now_s: float) -> list[int]:
        """The counters that count entries which may still live."""
        last = self.index(now_s)
        return list(range(last - -(-self.ttl_s // self.span_s), last + 1))

    @property
    def life_s(self) -> int:
        """Life of a counter."""
        return self.ttl_s + 2 * self.span_s

    def must_read(self, now: float) -> bool:
        """Whether the counters should be read (again). now: monotonic. True once per interval."""
        if now - self._read_at < _AGAIN_S:
            return False
        self._read_at = now
        return True

    def read(self, totals: dict[int, int]) -> None:
        """What Redis says of the counters."""
        self._totals = {index: max(total, 0) for index, total in totals.items()}

    def counted(self, index: int, total: int) -> None:
        """What INCRBY answered."""
        self._totals[index] = total

    def used(self, now_s: float) -> int:
        """Bytes inserted within the life of an entry, as far as is known."""
        return sum(self._totals.get(index, 0) for index in self.window(now_s))

    def admit(self, size: int, limit: int, now_s: float) -> bool:
        """Whether so many bytes may be inserted; they are counted here at once, and in Redis by the caller."""
        if self.used(now_s) + size > limit:
            return False
        index = self.index(now_s)
        self._totals[index] = self._totals.get(index, 0) + size
        return True
