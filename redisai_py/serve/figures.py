"""Counts of several front doors, as trees of numbers by topic. Pure.

A tree is a dict of numbers and trees. The supervisor adds trees without knowing their meaning;
`redisai_py.ops.tallies` defines the topics and the contents of each tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["MOST_TOPICS", "Book", "Tree", "added"]

Tree = dict[str, Any]

MOST_TOPICS = 2048
"""Topics kept for each front door; the least recently reported are dropped first."""
_DEEPEST = 8


def added(one: Mapping[str, Any], other: Mapping[str, Any], depth: int = _DEEPEST) -> Tree:
    """The sum of two trees. Values that are neither numbers nor trees are left out."""
    total: Tree = {}
    for name in [*one, *(name for name in other if name not in one)]:
        parts = [tree[name] for tree in (one, other) if name in tree]
        if all(isinstance(part, Mapping) for part in parts):
            if depth:
                total[name] = added(parts[0], parts[1] if parts[1:] else {}, depth - 1)
        elif all(isinstance(part, (int, float)) for part in parts):
            total[name] = sum(parts)
    return total


class Book:
    """The last reported counts of each front door, and the sums of the counts of ended front doors."""

    def __init__(self) -> None:
        self._told: dict[int, dict[str, Tree]] = {}
        self._estate: dict[str, Tree] = {}

    def tell(self, door: int, figures: Mapping[str, Any]) -> None:
        """Store the current counts of a front door."""
        told = self._told.setdefault(door, {})
        for topic, tree in figures.items():
            if isinstance(tree, Mapping):
                told.pop(topic, None)
                told[topic] = dict(tree)
        _bound(told)

    def ended(self, door: int) -> None:
        """Move the counts of a front door that has ended to the sums."""
        for topic, tree in self._told.pop(door, {}).items():
            self._estate[topic] = added(self._estate.pop(topic, {}), tree)
        _bound(self._estate)

    def of_others(self, door: int, topics: Iterable[str] | None) -> dict[str, Tree]:
        """The sums over all other front doors, of these topics or of all (None)."""
        known = [self._estate, *(told for other, told in self._told.items() if other != door)]
        wanted = dict.fromkeys(topic for told in known for topic in told) if topics is None else dict.fromkeys(topics)
        sums: dict[str, Tree] = {}
        for topic in wanted:
            total: Tree = {}
            for told in known:
                if topic in told:
                    total = added(total, told[topic])
            sums[topic] = total
        return sums

    def reset(self, topic: str, kept: Iterable[str]) -> None:
        """Restart the counts of a topic, except for the names in `kept`."""
        for told in [self._estate, *self._told.values()]:
            if topic in told:
                told[topic] = {name: told[topic][name] for name in kept if name in told[topic]}

    def forget(self, topic: str) -> None:
        """Drop a topic whose object no longer exists."""
        for told in [self._estate, *self._told.values()]:
            told.pop(topic, None)


def _bound(told: dict[str, Tree]) -> None:
    while len(told) > MOST_TOPICS:
        del told[next(iter(told))]
