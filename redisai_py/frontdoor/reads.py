"""The keys that a client's commands in flight read. Pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Reads"]

_MOST_APART = 1024


class Reads(list[Iterable[bytes]]):
    """The keys of each command or burst. They are looked at only if somebody asks for one: most clients only read."""

    def add(self, keys: Iterable[bytes]) -> None:
        """Commands that read these keys were sent."""
        self.append(keys)
        if len(self) > _MOST_APART:  # the client always has something in flight
            self._merge()

    def any_of(self, keys: Iterable[bytes]) -> bool:
        """Whether one of these keys is being read."""
        return bool(self) and not self._merge().isdisjoint(keys)

    def _merge(self) -> set[bytes]:
        """All keys, from now on in one set."""
        first = self[0]
        if not isinstance(first, set):
            first = set(first)
            self[0] = first
        first.update(*self[1:])
        del self[1:]
        return first
