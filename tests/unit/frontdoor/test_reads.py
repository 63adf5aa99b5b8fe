"""The keys that a client's commands in flight read."""

from __future__ import annotations

import random

from redisai_py.frontdoor.reads import Reads

IN_FLIGHT = 1024


def keys(number: int) -> list[bytes]:
    return [b"%d:%d" % (number, at) for at in range(3)]


def test_what_may_be_in_flight_is_found_whatever_was_asked_before() -> None:
    random.seed(1)
    for asks in (0.0, 0.01, 0.5):
        reads = Reads()
        for number in range(4 * IN_FLIGHT):
            reads.add(keys(number))
            if random.random() < asks:
                assert reads.any_of([keys(max(0, number - random.randrange(IN_FLIGHT)))[1]])
        assert all(reads.any_of(iter(keys(number)[:1])) for number in range(3 * IN_FLIGHT, 4 * IN_FLIGHT))
        assert not reads.any_of([b"another"])


def test_a_client_that_never_pauses_does_not_fill_the_memory() -> None:
    reads = Reads()
    for number in range(50 * IN_FLIGHT):
        reads.add(keys(number))
    held = sum(len(list(each)) for each in reads) + len(reads._before)
    assert held <= 3 * (2 * IN_FLIGHT + IN_FLIGHT)
    assert not reads.any_of(keys(0)), "it was answered long ago"


def test_nothing_is_read_after_the_last_answer() -> None:
    reads = Reads()
    reads.add(keys(1))
    assert reads.any_of(keys(1))
    reads.clear()
    assert not reads.any_of(keys(1))
    reads.add(keys(2))
    assert not reads.any_of(keys(1))
    assert reads.any_of(keys(2))
