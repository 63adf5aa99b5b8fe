"""When a batch that is not full waits for more runs although the process has nothing to do."""

from __future__ import annotations

from redisai_py.engine.pipes.lines import Linger


def test_a_batch_waits_while_others_join_and_leaves_with_the_last() -> None:
    linger = Linger()
    assert linger.latest == 0  # nothing is known: a first run does not wait
    linger.left(16)
    assert linger.latest == 16
    linger.begin(now=5.0)
    for came in (True, False, True, False):
        assert linger.goes_on(came, now=5.0)
    assert not linger.goes_on(False, now=5.0)
    assert linger.latest == 0  # what is there leaves
    linger.left(9)
    assert not linger.on


def test_a_batch_waits_for_a_millisecond_at_most() -> None:
    linger = Linger()
    linger.left(16)
    linger.begin(now=5.0)
    assert linger.goes_on(True, now=5.0009)
    assert not linger.goes_on(True, now=5.0011)


def test_a_full_batch_ends_the_waiting() -> None:
    linger = Linger()
    linger.left(16)
    linger.begin(now=5.0)
    linger.left(16)
    assert not linger.on
