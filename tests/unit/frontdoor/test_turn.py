"""The order rules of a client's turn, without a socket: what may start, in which order replies leave, and the end."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from redisai_py.errors import CommandError, UpstreamError, UpstreamLost
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.output import Flusher
from redisai_py.frontdoor.turn import Turn
from redisai_py.pending import Pending
from redisai_py.resp.replies import OK
from redisai_py.resp.templates import Burst, Command, Frames

MOST = 1024


class Transport:
    """Takes what is written, and what becomes of the connection."""

    def __init__(self) -> None:
        self.data = b""
        self.end = ""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Action:
    """An action that is a function of the turn."""

    is_ai = True

    def __init__(self, function: Callable[[Turn], bool]) -> None:
        self._function = function

    def start(self, turn: Turn, command: Command | Burst) -> bool:
        return self._function(turn)


def does(function: Callable[[Turn], bool]) -> Command:
    """A command that does this."""
    return Command([b"x"], action=Action(function))


class Bench:
    """A turn whose commands do what a function of the turn does."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.errors: list[BaseException] = []
        counters = SimpleNamespace(commands=0)
        services: Any = SimpleNamespace(counters=counters, frames=Frames(), internal_error=self._internal_error)
        self.counters = counters
        self.turn = Turn(services, self, Flusher(self.soon.append))
        self.turn.session = SimpleNamespace(protocol=2, access=None)  # type: ignore[assignment]
        self.transport = self.turn.transport = Transport()
        self.started: list[Any] = []
        self.hung_up = False

    def _internal_error(self, error: BaseException) -> CommandError:
        self.errors.append(error)
        return CommandError("ERR internal error")

    # As the turn's client.

    def start(self, command: Command | Burst) -> bool:
        if not command.action.start(self.turn, command):
            return False
        self.started.append(command)
        return True

    def begin_pipeline(self) -> None:
        return None

    def drained(self) -> None:
        """Nothing is to be done."""

    def stream(self, reply: Any) -> Any:
        raise AssertionError("nothing here is streamed")

    def hang_up(self) -> None:
        self.hung_up = True

    # What a test does.

    def send(self, *actions: Callable[[Turn], bool]) -> list[Command]:
        """Commands come, together."""
        commands = [does(action) for action in actions]
        self.turn.receive(commands)
        self.turn.drain()
        return commands

    def written(self) -> bytes:
        """What has been written by the end of this iteration."""
        while self.soon:
            self.soon.pop(0)()
        data, self.transport.data = self.transport.data, b""
        return data


def alone(turn: Turn) -> bool:
    """A command that runs alone, and ends when the test says so."""
    if not turn.idle:
        return False
    turn.begin()
    return True


def overlapping(turn: Turn) -> bool:
    """A command of one round trip."""
    if turn.busy or turn.relayed:
        return False
    turn.overlap()
    return True


def relayed(turn: Turn) -> bool:
    """A command of Redis's own."""
    if turn.in_flight or turn.busy or turn.deferred:
        return False
    turn.relaying(1)
    return True


# -- what may start ----------------------------------------------------------------------------------------------------


def test_a_command_that_runs_alone_waits_and_is_waited_for() -> None:
    bench = Bench()
    first, second, third = bench.send(overlapping, alone, overlapping)
    assert bench.started == [first]
    bench.turn.answer(OK)
    assert bench.started == [first, second]
    assert bench.turn.busy
    bench.turn.finish(OK)
    assert bench.started == [first, second, third]
    assert not bench.turn.backlog


def test_one_kind_of_work_at_a_time() -> None:
    bench = Bench()
    plain, *_ = bench.send(relayed, relayed, overlapping, relayed)
    assert len(bench.started) == 2
    assert bench.started[0] is plain
    bench.turn.relayed_answered(1)
    bench.turn.after_work()
    assert len(bench.started) == 2
    bench.turn.relayed_answered(1)
    bench.turn.after_work()
    assert len(bench.started) == 3
    bench.turn.answer(OK)
    assert len(bench.started) == 4


def test_the_limit_in_flight() -> None:
    bench = Bench()
    bench.send(*[overlapping] * (MOST + 10))
    assert bench.turn.in_flight == MOST
    assert len(bench.turn.backlog) == 10
    assert not bench.turn.has_room()
    bench.turn.answer(OK)
    assert bench.turn.in_flight == MOST
    assert len(bench.turn.backlog) == 9


def test_the_limit_holds_for_a_command_that_comes_alone() -> None:
    """A remembered command is started without the backlog, but not past the limit."""
    bench = Bench()
    for _ in range(MOST):
        assert bench.turn.offer(does(overlapping))
    assert not bench.turn.offer(does(overlapping))
    assert bench.turn.in_flight == MOST
    assert bench.counters.commands == MOST


@pytest.mark.parametrize("count", [1, 2, MOST])
def test_room_for_a_burst(count: int) -> None:
    turn = Bench().turn
    assert turn.has_room(MOST + 1), "a burst larger than the limit goes alone"
    turn.overlap(MOST - count)
    assert turn.has_room(count)
    if count < MOST:
        assert not turn.has_room(count + 1)


def test_a_command_that_comes_alone_does_not_overtake() -> None:
    bench = Bench()
    bench.send(alone, overlapping)
    assert not bench.turn.offer(does(lambda turn: pytest.fail("it has overtaken")))
    bench.turn.finish(OK)
    bench.turn.answer(OK)
    assert bench.turn.offer(does(alone))


def test_a_command_that_cannot_start_yet_waits() -> None:
    bench = Bench()
    command = does(alone)
    bench.turn.overlap()
    assert bench.turn.offer(command)
    assert list(bench.turn.backlog) == [command]
    bench.turn.answer(OK)
    assert bench.started == [command]


def test_a_client_that_does_not_read_is_not_served() -> None:
    bench = Bench()
    bench.turn.pause()
    (command,) = bench.send(overlapping)
    assert not bench.started
    assert not bench.turn.offer(does(lambda turn: pytest.fail("it is not read")))
    bench.turn.pause(False)
    bench.turn.drain()
    assert bench.started == [command]


def test_keys_that_are_being_read() -> None:
    turn = Bench().turn
    turn.overlap_reading((b"k",))
    turn.overlap()
    turn.answer(OK)
    assert turn.reading.any_of([b"j", b"k"])
    assert not turn.reading.any_of([b"j"])
    turn.answer(OK)
    assert not turn.reading.any_of([b"k"])


def test_keys_of_many_commands_that_are_being_read() -> None:
    turn = Bench().turn
    for n in range(5000):
        turn.overlap_reading(iter([b"k%d" % (n % 7)]))
    assert len(turn.reading) < 2000, "a client that always has something in flight fills the memory"
    assert [key for key in (b"k0", b"k6", b"k7") if turn.reading.any_of((key,))] == [b"k0", b"k6"]
    turn.overlap_reading(iter([b"a", b"b"]), 2)
    assert turn.reading.any_of((b"b",))
    assert turn.in_flight == 5002


# -- replies -----------------------------------------------------------------------------------------------------------


def test_replies_leave_in_order() -> None:
    bench = Bench()
    bench.turn.overlap(3)
    second: Pending[Any] = Pending()

    async def fetch() -> Any:
        return await second

    bench.turn.answer(1)
    bench.turn.second_trip(fetch())
    bench.turn.answer(3)
    assert bench.written() == b":1\r\n"
    assert bench.turn.in_flight == 1
    second.resolve(2)
    assert bench.written() == b":2\r\n:3\r\n"
    assert bench.turn.idle
    bench.turn.overlap()
    bench.turn.answer_with(b"+OK\r\n")
    assert bench.written() == b"+OK\r\n"


def test_a_second_trip_that_runs_alone() -> None:
    bench = Bench()
    bench.turn.overlap()
    trip: Pending[Any] = Pending()

    async def again() -> Any:
        return await trip

    bench.turn.second_trip(again(), alone=True)
    bench.send(overlapping)
    assert not bench.started
    trip.resolve(OK)
    assert len(bench.started) == 1
    assert bench.written() == b"+OK\r\n"


def test_replies_wait_for_the_end_of_a_message() -> None:
    bench = Bench()
    turn = bench.turn
    turn.pass_on(b">2\r\n$7\r\nmess", whole=False)
    assert turn.in_message
    turn.begin()
    turn.finish_with(b"+OK\r\n")
    turn.reply(5)
    assert turn.deferred
    assert bench.written() == b">2\r\n$7\r\nmess"
    turn.pass_on(b"age\r\n:1\r\n", whole=True)
    assert bench.written() == b"age\r\n:1\r\n+OK\r\n:5\r\n"


def test_what_redis_sends_comes_behind_our_replies() -> None:
    bench = Bench()
    bench.turn.reply(1)
    bench.turn.pass_on(b"$1\r\nx\r\n", whole=True)
    assert bench.written() == b":1\r\n$1\r\nx\r\n"


def test_a_silent_client() -> None:
    bench = Bench()
    turn = bench.turn
    turn.skip(True)
    for value in (1, 2):
        turn.reply(value)
    assert bench.written() == b":2\r\n"
    turn.mute(True)
    turn.overlap()
    turn.answer_with(b"+OK\r\n")
    turn.begin()
    turn.finish(3)
    assert turn.idle
    assert bench.written() == b""
    turn.mute(False)
    turn.reply(4)
    assert bench.written() == b":4\r\n"


def test_a_handler() -> None:
    bench = Bench()
    turn = bench.turn
    pending: Pending[Any] = Pending()

    async def handler() -> Any:
        return await pending

    assert turn.run_alone(handler())
    assert not turn.run_alone(handler()), "one at a time"
    pending.resolve(7)
    assert bench.written() == b":7\r\n"

    async def fails() -> Any:
        raise CommandError("ERR no")

    async def writes() -> Any:
        turn.write((b"+DONE\r\n",))
        return NO_REPLY

    async def broken() -> Any:
        raise ZeroDivisionError

    for work in (fails, writes, broken):
        assert turn.run_alone(work())
        assert turn.idle
    assert bench.written() == b"-ERR no\r\n+DONE\r\n-ERR internal error\r\n"
    assert [type(error) for error in bench.errors] == [ZeroDivisionError]


def test_a_command_continues_with_a_handler() -> None:
    bench = Bench()

    async def handler() -> Any:
        return OK

    bench.turn.begin()
    bench.turn.continue_with(handler())
    assert bench.turn.idle
    assert bench.written() == b"+OK\r\n"


def test_what_runs_alone_may_overlap_once_it_is_sent() -> None:
    bench = Bench()
    bench.turn.begin()
    bench.send(overlapping)
    assert not bench.started
    bench.turn.overlap_instead()
    assert len(bench.started) == 1
    assert bench.turn.in_flight == 2


def test_several_that_ran_as_one() -> None:
    bench = Bench()
    bench.turn.begin()
    bench.turn.finish_each(UpstreamError("ERR a"), 2)
    assert bench.written() == b"-ERR a\r\n" * 2


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_cancels_what_runs() -> None:
    bench = Bench()
    told: list[str] = []
    bench.turn.begin()
    bench.turn.cancelled_by(lambda: told.append("cancelled"))
    bench.turn.receive([does(alone)])
    bench.turn.lost()
    assert told == ["cancelled"]
    assert not bench.turn.backlog
    bench.turn.finish(OK)
    assert bench.written() == b""


def test_what_has_ended_is_not_cancelled() -> None:
    bench = Bench()
    for end in (bench.turn.finish, bench.turn.finish_with):
        bench.turn.begin()
        bench.turn.cancelled_by(lambda: pytest.fail("it has ended"))
        end(b"+OK\r\n")
    bench.turn.lost()


def test_a_second_trip_of_a_client_that_leaves() -> None:
    bench = Bench()
    trip: Pending[Any] = Pending()

    async def fetch() -> Any:
        return await trip

    bench.turn.overlap()
    bench.turn.second_trip(fetch())
    bench.turn.lost()
    trip.resolve(OK)
    assert bench.written() == b""


def test_what_was_received_before_the_end_is_answered() -> None:
    bench = Bench()
    bench.send(alone, overlapping, relayed)
    bench.turn.leave_when_idle()
    assert not bench.transport.end
    bench.turn.finish(1)
    bench.turn.answer(2)
    assert not bench.transport.end, "a reply of Redis is still to come"
    bench.turn.relayed_answered(1)
    bench.turn.after_work()
    assert bench.transport.end == "closed"
    assert bench.written() == b":1\r\n:2\r\n"


def test_an_idle_client_leaves_at_once() -> None:
    bench = Bench()
    bench.turn.leave_when_idle()
    assert bench.transport.end == "closed"


def test_draining_waits_for_work() -> None:
    bench = Bench()
    bench.turn.begin()
    bench.turn.leave_when_idle()
    assert not bench.transport.end
    bench.turn.finish_with(b"+OK\r\n")
    assert bench.transport.end == "closed"


def test_a_lost_redis_ends_the_client_in_order() -> None:
    bench = Bench()
    trip: Pending[Any] = Pending()

    async def fetch() -> Any:
        return await trip

    bench.turn.overlap(2)
    bench.turn.second_trip(fetch())
    bench.turn.answer(UpstreamLost("ERR lost"))
    assert bench.turn.closing
    assert not bench.hung_up
    trip.resolve(1)
    assert bench.hung_up
    assert bench.transport.data == b":1\r\n"
    bench.send(alone)
    assert not bench.started


def test_a_bug_ends_its_client() -> None:
    bench = Bench()

    def broken(turn: Turn) -> bool:
        raise KeyError

    bench.send(overlapping, broken, overlapping)
    assert len(bench.started) == 1
    assert bench.transport.end == "closed"
    assert bench.transport.data == b"-ERR internal error\r\n"
    assert not bench.turn.backlog


def test_a_burst_that_is_given_back() -> None:
    bench = Bench()
    bench.turn.begin()
    bench.turn.pause()  # so that they wait
    frame = b"*1\r\n$1\r\nx\r\n" * 3
    bench.turn.give_back(Burst(None, frame, [b"x"] * 3))
    assert [command.argv for command in bench.turn.backlog] == [[b"x"]] * 3
    assert bench.counters.commands == 2, "the first was counted when the burst came"
