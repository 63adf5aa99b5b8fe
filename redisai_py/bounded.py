"""A cache with a limit: what was worked out is kept, so that it need not be worked out again."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """A dict that `keep` empties when it is full. Look-ups are those of a dict: nothing is counted or reordered, which
    is why nothing better can be given up than everything. What is used often is soon there again.

    Args: limit: most entries.
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
