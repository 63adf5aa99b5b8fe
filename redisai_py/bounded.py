"""A bounded cache of computed values."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """A dict that `keep` clears when it is full. Look-ups are those of a dict: nothing is counted or reordered, so
    there is no better choice than to drop everything. Frequent entries soon return.

    Args: limit: maximum number of entries.
    """

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def keep(self, key: K, value: V) -> V:
        """Add an entry. Returns: its value."""
        if len(self) >= self._limit:
            self.clear()
        self[key] = value
        return value
