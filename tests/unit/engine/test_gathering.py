"""When a batch that is not full waits for more runs although the process has nothing to do."""

from __future__ import annotations

from redisai_py.engine.lines import Gathering


def test_a_batch_waits_while_others_join_and_leaves_with_the_last() -> None:
    gathering = Gathering()
    assert gathering.latest == 0  # nothing is known: a first run does not wait
    gathering.left(16)
    assert gathering.latest == 16
    gathering.begin(now=5.0)
    for came in (True, False, True, False):
        assert gathering.goes_on(came, now=5.0)
    assert not gathering.goes_on(False, now=5.0)
    assert gathering.latest == 0  # what is there leaves
    gathering.left(9)
    assert not gathering.on


def test_a_batch_waits_for_a_millisecond_at_most() -> None:
    gathering = Gathering()
    gathering.left(16)
    gathering.begin(now=5.0)
    assert gathering.goes_on(True, now=5.0009)
    assert not gathering.goes_on(True, now=5.0011)


def test_a_full_batch_ends_the_waiting() -> None:
    gathering = Gathering()
    gathering.left(16)
    gathering.begin(now=5.0)
    gathering.left(16)
    assert not gathering.on
