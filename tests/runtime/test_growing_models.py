"""Models whose memory grows run by run, past the limit of their engine process: it is their own clients' problem."""

from __future__ import annotations

import re
from itertools import pairwise

import psutil
import pytest
import redis

from tests.runtime.faulty import engines, info, run, store
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import eventually
from tests.runtime.test_shared_engines import Clients, Isolated, apart, clients

__all__ = ["clients"]

REFUSED = r"^model 'm': the memory limit of the engine process \(--engine-memory-limit-mb\) is reached: .*allocate"


def outcomes(client: redis.Redis, times: int, key: str = "m") -> list[bool]:
    """Whether each run succeeded; one that did not was refused memory."""
    found = []
    for _ in range(times):
        try:
            found.append(run(client, key, "bad") == -2.0)
        except redis.ResponseError as error:
            found.append(re.search(REFUSED, str(error)) is None)
            if found[-1]:
                raise
    return found


def test_a_model_that_grows_is_told_so_and_starts_over(isolated: Isolated) -> None:
    serving = isolated("--engine-memory-limit-mb", 450)
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:grow")
        with Onlookers(serving, "good") as others:
            told = outcomes(client, 12)
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert 1 <= told.count(False) <= 3, told
        assert (False, False) not in pairwise(told), "the next run has a process of its own again"
        assert info(client, "m")[b"quarantine"] == b""
        assert eventually(lambda: max(process.memory_info().rss for process in engines(serving)) < 600_000_000)


def test_the_default_limit_ends_growth_too(isolated: Isolated) -> None:
    if psutil.virtual_memory().total > 100e9:
        pytest.skip("the model reserves less memory than this machine has")
    serving = isolated()
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:reserve")
        with Onlookers(serving, "good") as others:
            told = outcomes(client, 120)
        assert others.errors == []
        assert 0 < told.count(False) < 60, told


def test_a_model_that_grows_at_two_front_doors_starts_over_at_both(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--engine-memory-limit-mb", 450, "--processes", 2)
    both = apart(serving, clients)
    store(both[0], "good")
    store(both[0], "m", "run:grow")
    told: list[list[bool]] = [[], []]
    with Onlookers(serving, "good") as others:
        for _ in range(9):
            for client, its in zip(both, told, strict=True):
                its += outcomes(client, 1)
    assert others.errors == []
    for its in told:
        assert (False, False) not in pairwise(its), told
    assert eventually(lambda: len(engines(serving)) == 2), "the full ones have ended"


@pytest.mark.slow
@pytest.mark.parametrize("doors", [1, 2])
@pytest.mark.parametrize("word", ["grow", "fill"])
def test_who_shares_a_process_with_a_model_that_grows_sees_nothing(
    isolated: Isolated, clients: Clients, word: str, doors: int
) -> None:
    serving = isolated("--engine-memory-limit-mb", 450, "--engine-processes", 1, "--processes", doors)
    several = [clients(serving) for _ in range(3)]
    client = several[0]
    for key, blob in (("good", "well"), ("hungry", "run:need"), ("m", f"run:{word}")):
        store(client, key, blob)
    assert len(engines(serving)) == 1
    with Onlookers(serving, "good") as others:
        for number in range(4):
            outcomes(client, 2)
            for each in several:
                assert run(each, "hungry", "bad") == -2.0
            store(client, f"new {number}", "load:need")
            assert run(several[-1], f"new {number}") == 2.0
        assert others.pause_s() < 2.0
    assert others.errors == []
    assert info(client, "hungry")[b"quarantine"] == info(client, "good")[b"quarantine"] == b""
