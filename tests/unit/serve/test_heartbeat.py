"""How long a silence lasts: what the machine withholds from a process does not count."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from redisai_py.config import Config
from redisai_py.serve.heartbeat import Orders, Progress, Silence
from tests.waiting import until


def _looks(
    silence: Silence, *, count: int, step_s: float = 1.0, share: float = 1.0, since: float = 100.0
) -> int | None:
    """At which look a silence is too long."""
    return next((n for n in range(count) if silence.look(since + n * step_s, n == 0, share)), None)


def test_a_silence_of_the_limit_is_too_long() -> None:
    assert _looks(Silence(10), count=60) == 10


def test_a_sign_of_life_begins_anew() -> None:
    silence = Silence(10)
    assert not any(silence.look(second, second % 9 == 0, 1.0) for second in range(100))


def test_no_limit() -> None:
    assert _looks(Silence(0), count=1000) is None


def test_a_process_that_is_stopped_is_not_silent() -> None:
    assert _looks(Silence(10), count=1000, share=0.0) is None


def test_a_process_that_gets_few_of_the_cores_has_more_time() -> None:
    assert _looks(Silence(10), count=1000, share=0.5) == 20


def test_who_looks_after_an_hour_was_asleep_itself() -> None:
    silence = Silence(10)
    silence.look(0, True, 1.0)
    assert not silence.look(3600, False, 1.0)
    assert silence.lasted_s == 2


def test_orders_come_back_as_they_were() -> None:
    orders = Orders(Config(redis="redis://:p@h"), frozenset((b"m\xff", b"n")), careful=True)
    line = orders.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert Orders.from_line(line) == orders


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not tell of its processes")
def test_progress_of_a_real_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            progress = Progress(process.pid)
            progress.share()
            time.sleep(0.2)
            assert 0.5 <= progress.share() <= 1
            process.send_signal(19)  # SIGSTOP
            until(lambda: progress.share() == 0)
        finally:
            process.kill()
    assert progress.share() == 1.0  # nobody is there to be asked
