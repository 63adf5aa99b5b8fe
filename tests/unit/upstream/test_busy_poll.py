"""When the event loop stays awake, and when it must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redisai_py.upstream.busy_poll import BusyPoll

LIMIT_S = 0.0001


class Loop:
    """A loop whose iterations the test makes, and a clock that it sets."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.now = 0.0
        self.commands = 0
        self.cores_wanted = False
        self._soon: list[Callable[[], object]] = []
        self.poll = BusyPoll(
            self._soon.append, limit_s, lambda: self.commands, lambda: self.cores_wanted, lambda: self.now
        )

    @property
    def awake(self) -> bool:
        """Whether the loop would look for events without sleeping, after this many iterations."""
        callbacks, self._soon[:] = list(self._soon), []
        for callback in callbacks:
            callback()
        return bool(self._soon)

    def in_vain(self) -> None:
        """Let a stay end without an event."""
        assert self.awake
        self.now += 1.5 * LIMIT_S
        assert not self.awake


def test_it_stays_awake_until_redis_answers_and_then_for_the_next_command() -> None:
    loop = Loop()
    loop.poll.asked()
    assert loop.awake
    assert loop.awake
    loop.poll.answered()
    loop.now += LIMIT_S * 0.9
    assert loop.awake
    loop.poll.asked()
    loop.now += LIMIT_S * 0.9  # a stay of its own
    assert loop.awake


def test_it_sleeps_when_nothing_comes() -> None:
    loop = Loop()
    loop.poll.asked()
    loop.in_vain()
    assert not loop.awake


def test_one_callback_at_a_time_however_often_redis_is_asked() -> None:
    loop = Loop()
    for _ in range(5):
        loop.poll.asked()
    assert len(loop._soon) == 1


def test_after_two_in_vain_the_next_are_left_out_more_each_time() -> None:
    loop = Loop()
    gaps = []
    for _ in range(6):
        left_out = 0
        loop.poll.answered()
        while not loop.awake:
            left_out += 1
            loop.poll.answered()
        gaps.append(left_out)
        loop.in_vain()
    assert gaps == [0, 0, 4, 8, 16, 32]


def test_never_more_than_256_are_left_out() -> None:
    loop = Loop()
    for _ in range(12):
        while True:
            loop.poll.answered()
            if loop.awake:
                break
        loop.in_vain()
    for _ in range(256):
        loop.poll.answered()
        assert not loop.awake
    loop.poll.answered()
    assert loop.awake


def test_an_event_in_time_forgives_what_was_in_vain() -> None:
    loop = Loop()
    loop.poll.asked()
    loop.in_vain()
    loop.poll.asked()
    loop.poll.answered()  # this time it came
    loop.in_vain()  # the client's next command did not, which is another matter
    loop.poll.asked()
    loop.in_vain()
    loop.poll.asked()
    assert loop.awake


def test_a_slow_client_does_not_count_against_redis() -> None:
    loop = Loop()
    for _ in range(3):
        loop.poll.answered()
        if loop.awake:
            loop.in_vain()
    loop.poll.asked()
    assert loop.awake


@pytest.mark.parametrize(("commands", "stays"), [(200, True), (201, False)])
def test_with_many_commands_per_second_there_is_no_sleep_to_be_saved(commands: int, stays: bool) -> None:
    loop = Loop()
    loop.now += 0.01
    loop.commands += commands
    loop.poll.asked()
    assert loop.awake == stays


def test_it_stays_awake_again_when_fewer_commands_come() -> None:
    loop = Loop()
    loop.now += 0.01
    loop.commands += 1000
    loop.poll.asked()
    assert not loop.awake
    loop.now += 0.01
    loop.commands += 10
    loop.poll.asked()
    assert loop.awake


def test_where_another_process_wants_the_core_it_is_left_alone() -> None:
    loop = Loop()
    loop.poll.asked()
    assert loop.awake
    loop.now += 0.003  # the system gave the core to somebody else
    assert not loop.awake
    for expect in (loop.poll.asked, loop.poll.answered):
        for _ in range(32):
            expect()
            assert not loop.awake
        expect()
        assert loop.awake
        loop.now += 1.5 * LIMIT_S


def test_threads_that_run_a_model_have_the_cores() -> None:
    loop = Loop()
    loop.cores_wanted = True
    loop.now += 0.01
    loop.poll.asked()
    assert not loop.awake
    loop.cores_wanted = False
    loop.now += 0.01
    loop.poll.asked()
    assert loop.awake


def test_cores_are_asked_for_in_each_window_even_with_many_commands() -> None:
    """Of several front doors, each says then how busy it is."""
    asked: list[float] = []
    now, commands = [0.0], [0]

    def wanted() -> bool:
        asked.append(now[0])
        return False

    poll = BusyPoll(lambda _: None, LIMIT_S, lambda: commands[0], wanted, lambda: now[0])
    for _ in range(3):
        now[0] += 0.01
        commands[0] += 1000
        poll.asked()
    assert asked == pytest.approx([0.01, 0.02, 0.03])


def test_it_can_be_switched_off() -> None:
    loop = Loop(limit_s=0.0)
    loop.poll.asked()
    loop.poll.answered()
    assert not loop.awake
