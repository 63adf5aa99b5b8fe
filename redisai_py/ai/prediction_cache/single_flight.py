"""Predictions in flight: equal requests, and equal rows, of one server are looked up and run once. Pure.

The first request owns the flight; the others wait for it. Waiters do not share an owner's error, but run for
themselves. If the owner only ran out of time, or was cancelled, one of the waiters takes over for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from redisai_py.engine.run import Value
from redisai_py.errors import QueueTimeout

__all__ = ["FlightKey", "SingleFlight", "Waiter"]

FlightKey = tuple[int, bytes]
"""A database, and the key of a prediction in it."""


class Waiter(Protocol):
    """A request that waits for a prediction. One of the two methods is called, once per key."""

    def completed(self, key: bytes, outputs: Sequence[Value]) -> None:
        """The prediction is known."""

    def failed(self, key: bytes, together: bool) -> None:
        """There will be no prediction. together: the waiters may share another flight."""


class SingleFlight:
    """The flights of one server."""

    def __init__(self) -> None:
        self._waiting: dict[FlightKey, list[Waiter]] = {}

    def __contains__(self, flight_key: FlightKey) -> bool:
        return flight_key in self._waiting

    def begin(self, flight_key: FlightKey) -> None:
        """Begin a new flight. The caller must end it with `complete` or `fail`."""
        self._waiting[flight_key] = []

    def take(self, flight_key: FlightKey, waiter: Waiter) -> bool:
        """Begin a flight, which the caller must end with `complete` or `fail`; False: wait for the existing one."""
        waiting = self._waiting.get(flight_key)
        if waiting is None:
            self.begin(flight_key)
            return True
        waiting.append(waiter)
        return False

    def join(self, flight_key: FlightKey, waiter: Waiter) -> bool:
        """Wait for an existing flight, if there is one."""
        return flight_key in self._waiting and not self.take(flight_key, waiter)

    def is_awaited(self, flight_key: FlightKey) -> bool:
        """Whether anybody waits for a flight."""
        return bool(self._waiting.get(flight_key))

    def leave(self, flight_key: FlightKey, waiter: Waiter) -> None:
        """Stop waiting."""
        waiting = self._waiting.get(flight_key, [])
        if waiter in waiting:
            waiting.remove(waiter)

    def complete(self, flight_key: FlightKey, outputs: Sequence[Value]) -> None:
        """End a flight: the prediction is known."""
        for waiter in self._waiting.pop(flight_key, ()):
            waiter.completed(flight_key[1], outputs)

    def fail(self, flight_key: FlightKey, error: BaseException | None = None) -> None:
        """End a flight without a prediction. error: of the owner's run."""
        # These errors concern only the owner: others may have more time.
        together = isinstance(error, QueueTimeout | asyncio.CancelledError)
        for waiter in self._waiting.pop(flight_key, ()):
            waiter.failed(flight_key[1], together)
