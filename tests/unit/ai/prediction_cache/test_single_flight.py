"""Who waits for whose run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redisai_py.ai.prediction_cache.single_flight import SingleFlight
from redisai_py.errors import BackendError, QueueTimeout

PLACE = (0, b"ai:pred:x")


class Request:
    """One that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def completed(self, key: bytes, outputs: Any) -> None:
        self.told.append((key, outputs))

    def failed(self, key: bytes, together: bool) -> None:
        self.told.append((key, together))


def test_the_first_owns_the_flight_and_the_others_get_what_it_finds():
    flights, requests = SingleFlight(), [Request() for _ in range(3)]
    assert [flights.take(PLACE, request) for request in requests] == [True, False, False]
    assert PLACE in flights
    assert flights.is_awaited(PLACE)
    assert flights.take((1, PLACE[1]), requests[0])  # another database
    flights.leave(PLACE, requests[1])
    flights.leave(PLACE, requests[1])
    flights.complete(PLACE, ["y"])
    assert [request.told for request in requests] == [[], [], [(PLACE[1], ["y"])]]
    assert PLACE not in flights
    flights.complete(PLACE, ["y"])  # ended already


@pytest.mark.parametrize(
    ("error", "together"),
    [(QueueTimeout(), True), (asyncio.CancelledError(), True), (BackendError("bad"), False), (None, False)],
)
def test_those_that_wait_share_another_flight_only_if_the_run_itself_did_not_fail(error, together):
    flights, owner, other = SingleFlight(), Request(), Request()
    flights.take(PLACE, owner)
    flights.take(PLACE, other)
    flights.fail(PLACE, error)
    assert other.told == [(PLACE[1], together)]
    assert flights.take(PLACE, other)
