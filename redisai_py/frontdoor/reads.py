"""The keys that a client's commands in flight read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set

__all__ = ["Reads"]

_MOST_APART = 256
_MOST_IN_FLIGHT = 1024
"""At least as many as a turn lets overlap: what was added before so many others has been answered."""


class Reads(list[Iterable[bytes]]):
    """The keys of each command or burst since none was in flight (`clear`). Nobody looks at them until somebody asks
    for one: most clients only read. Of a client that always has something in flight, older ones are forgotten.
    """

    def __init__(self) -> None:
        super().__init__()
        self._merged: set[bytes] = set()
        self._before: Set[bytes] = frozenset()
        self._adds = 0

    def add(self, keys: Iterable[bytes]) -> None:
        """Commands that read these keys were sent."""
        self.append(keys)
        if len(self) > _MOST_APART:
            self._merge()

    def any_of(self, keys: Iterable[bytes]) -> bool:
        """Whether one of these keys is being read."""
        if not self:
            return False
        self._merge()
        wanted = set(keys)
        return not (self._merged.isdisjoint(wanted) and self._before.isdisjoint(wanted))

    def _merge(self) -> None:
        """All that was added, from now on in one set: the first element."""
        if self[0] is self._merged:
            new = self[1:]
        else:  # cleared since
            new, self._merged, self._before, self._adds = self[:], set(), frozenset(), 0
        self._merged.update(*new)
        self._adds += len(new)
        if self._adds >= _MOST_IN_FLIGHT:
            self._before, self._merged, self._adds = self._merged, set(), 0
        self[:] = [self._merged]
