"""Which part of a model's runs the event loop gives away; tests/runtime/test_isolation_shared.py has a real server."""

from __future__ import annotations

import pytest

from redisai_py.engine.pipes.offloading import OffloadShare


def _sent(per_flush: int, process_us: float, loop_us: float, rest_us: float, flushes: int = 2000) -> float:
    """The part of the runs that goes to a process, over the second half of so many flushes of `per_flush` new runs.

    Args: process_us, loop_us: what a run takes there and here.   rest_us: everything else that the loop does per run.
    """
    share = OffloadShare()
    waiting = 0.0  # runs in the process
    sent = 0
    for flush in range(flushes):
        count = share.of(per_flush, int(waiting + 0.999))
        assert 0 <= count <= per_flush
        waiting += count
        if flush >= flushes // 2:
            sent += count
        took_us = (per_flush - count) * loop_us + per_flush * rest_us
        waiting = max(0.0, waiting - took_us / process_us)
    return sent / per_flush / (flushes / 2)


@pytest.mark.parametrize("per_flush", [4, 16, 64])
@pytest.mark.parametrize(
    ("process_us", "loop_us", "rest_us"), [(40, 34, 20), (300, 300, 20), (80, 34, 20), (40, 34, 2)]
)
def test_both_compute_all_the_time(per_flush: int, process_us: float, loop_us: float, rest_us: float) -> None:
    even = (loop_us + rest_us) / (process_us + loop_us)  # both take as long for their parts
    part = _sent(per_flush, process_us, loop_us, rest_us)
    assert even * 0.75 - 0.5 / per_flush < part < min(0.82, even * 1.1 + 0.5 / per_flush)


def test_a_process_that_gets_no_core_gets_hardly_a_run() -> None:
    assert _sent(16, process_us=2000, loop_us=34, rest_us=20) < 0.05


def test_a_process_that_stands_still_gets_no_more() -> None:
    share = OffloadShare()
    waiting = sum(share.of(16, 0) for _ in range(1))
    for _ in range(100):
        waiting += share.of(16, waiting)
    assert waiting <= 16
