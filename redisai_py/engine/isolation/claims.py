"""What one front door is about to do for all, so that the others wait for its result: read a model from Redis.

A claim is no lock that anything's correctness depends on. Who has waited for long goes ahead without it.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["Claims"]

_PATIENCE_S = 10.0

Door = TypeVar("Door")


class Claims(Generic[Door]):
    """A claimant is a front door and its number of the claim. Thread: any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claimants: dict[str, tuple[Door, int]] = {}
        self._waiting: set[tuple[Door, int]] = set()

    def announce(self, claimant: tuple[Door, int]) -> None:
        """Somebody is about to call `take`, unless they `release` first."""
        with self._changed:
            self._waiting.add(claimant)

    def take(self, claimant: tuple[Door, int], what: str) -> bool:
        """Wait until nobody else has the claim. Returns: False: it took too long, or the claimant gave up."""
        with self._changed:
            self._changed.wait_for(
                lambda: what not in self._claimants or claimant not in self._waiting, timeout=_PATIENCE_S
            )
            free = what not in self._claimants and claimant in self._waiting
            self._waiting.discard(claimant)
            if free:
                self._claimants[what] = claimant
            return free

    def release(self, claimant: tuple[Door, int]) -> None:
        """The claimant is done, or waits no more."""
        with self._changed:
            self._waiting.discard(claimant)
            self._claimants = {what: each for what, each in self._claimants.items() if each != claimant}
            self._changed.notify_all()

    def left(self, door: Door) -> None:
        """A front door has ended."""
        with self._changed:
            self._waiting = {each for each in self._waiting if each[0] is not door}
            self._claimants = {what: each for what, each in self._claimants.items() if each[0] is not door}
            self._changed.notify_all()
