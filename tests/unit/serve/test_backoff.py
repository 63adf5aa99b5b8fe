from __future__ import annotations

from redisai_py.serve.backoff import Backoff


def test_the_first_restart_is_at_once_and_the_pauses_grow_to_a_limit() -> None:
    backoff = Backoff()
    waits = [backoff.after(0.5) for _ in range(10)]
    assert waits[0] == 0
    assert waits[1] == Backoff.FIRST_S
    assert waits == sorted(waits)
    assert waits[-1] == Backoff.LONGEST_S


def test_a_process_that_ran_for_long_starts_again_at_once() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0)
    assert backoff.after(Backoff.STABLE_S) == 0
    assert backoff.after(0) == Backoff.FIRST_S
