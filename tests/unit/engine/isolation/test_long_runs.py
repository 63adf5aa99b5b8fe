"""Long waits are noticed once, and nothing is looked at while nothing runs."""

from __future__ import annotations

import threading
import time

from redisai_py.engine.isolation import long_runs
from redisai_py.engine.isolation.long_runs import LongRuns
from tests.waiting import until


class _Wait:
    def __init__(self, thread_id: int, since: float) -> None:
        self.thread_id = thread_id
        self.since = since
        self.reported = False


def test_a_long_run_is_told_of_once() -> None:
    waits: list[_Wait] = []
    told: list[int] = []
    heard = threading.Event()

    def tell(thread_id: int) -> None:
        told.append(thread_id)
        heard.set()

    alarm = LongRuns(lambda: list(waits), tell)
    assert alarm.asleep
    waits += [_Wait(1, time.monotonic() - 1), _Wait(2, time.monotonic() + 3600)]
    alarm.wake()
    assert heard.wait(20)
    time.sleep(3 * long_runs._LOOK_S)
    assert told == [1]
    assert not alarm.asleep, "as long as something runs"
    waits.clear()
    until(lambda: alarm.asleep)
    heard.clear()
    waits.append(_Wait(3, time.monotonic() - 1))
    alarm.wake()
    assert heard.wait(20)
    assert told == [1, 3]
    alarm.stop()
