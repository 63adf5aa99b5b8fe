"""What front doors share: the models in a process, the verdicts on its end, and the records of quarantine.

Sockets and threads are real; no engine process is started.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from redisai_py.backend import Array, InputSpec
from redisai_py.engine.isolation.channel import Channel
from redisai_py.engine.isolation.door_line import DoorLine
from redisai_py.engine.isolation.host_messages import failure_of
from redisai_py.engine.isolation.hosted import Programs, Unloaded
from redisai_py.engine.isolation.lane import Answer
from redisai_py.engine.isolation.managed import Placement, Wanted
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.messages import ModelGone, failure
from redisai_py.engine.isolation.quarantine import Quarantine, Strikes
from redisai_py.engine.isolation.remote_manager import ManagerLost, RemoteManager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.isolation.verdicts import Suspect, Verdict, by_program, culprit_of, exit_word
from redisai_py.engine.isolation.wire import Op
from redisai_py.errors import BackendError, BackendNotInstalled, Overloaded
from tests.waiting import until


class Session:
    inputs = (InputSpec("x"),)
    outputs = ("y",)
    nbytes = 1

    def __init__(self) -> None:
        self.closed = 0

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        return list(inputs)

    def terminate(self) -> bool:
        return False

    def close(self) -> None:
        self.closed += 1


def test_a_program_is_built_once_and_closed_with_its_last_user() -> None:
    programs, built, go = Programs(), [], threading.Event()

    def build() -> Session:
        go.wait(10)
        built.append(Session())
        return built[-1]

    found: list[tuple[Any, bool]] = []
    threads = [threading.Thread(target=lambda: found.append(programs.load(7, build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    (session,) = built
    assert sorted(was_there for _, was_there in found) == [False, True, True, True]
    assert {id(hosted.session) for hosted, _ in found} == {id(session)}
    for _ in range(3):
        programs.release(7)
    assert session.closed == 0
    programs.release(7)
    assert session.closed == 1
    assert programs.load(7, build)[1] is False, "it is loaded again"
    assert len(built) == 2


def test_what_a_closed_session_says_of_a_run_is_no_failure_of_the_run() -> None:
    class Fails(Session):
        concurrent = True

        def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
            raise ValueError("no negative numbers" if not self.closed else "there is nothing left of the model")

    programs = Programs()
    hosted, _ = programs.load(7, Fails)
    with pytest.raises(ValueError, match="no negative numbers"):
        hosted.run([], False)
    programs.release(7)
    with pytest.raises(Unloaded) as caught:
        hosted.run([], False)
    answer = failure_of(caught.value)
    assert isinstance(failure(Answer(Op.FAILED, 0, answer.header, memoryview(b""))), ModelGone)


def test_a_load_that_fails_fails_for_all_that_wait_and_for_nobody_else() -> None:
    programs, began, go, errors = Programs(), threading.Event(), threading.Event(), []

    def build() -> Session:
        began.set()
        go.wait(10)
        raise BackendError("ERR no model")

    def load() -> None:
        try:
            programs.load(1, build)
        except BackendError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    began.wait(10)
    while len(programs._entries) != 1 or programs._entries[1].references < 3:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join(10)
    assert errors == ["ERR no model"] * 3
    hosted, was_there = programs.load(1, Session)
    assert isinstance(hosted.session, Session)
    assert not was_there


@pytest.mark.parametrize(
    ("suspects", "blamed", "by_itself", "culprit"),
    [
        ([], 0, True, 0),
        ([5], 0, True, 5),
        ([5, 6], 0, True, 0),
        ([5], 0, False, 0),
        ([5, 6], 6, True, 6),
        ([5], 6, False, 6),
    ],
)
def test_the_culprit(suspects: list[int], blamed: int, by_itself: bool, culprit: int) -> None:
    assert culprit_of(suspects, blamed, by_itself) == culprit


def test_a_program_that_one_front_door_runs_and_another_loads_was_loaded() -> None:
    loads, runs = Suspect(1, True, "m"), Suspect(1, False, "m")
    for told in ([loads, runs], [runs, loads]):
        assert by_program(told) == {1: runs}
    assert by_program([loads, Suspect(2, False, "n")]) == {1: loads, 2: Suspect(2, False, "n")}


@pytest.mark.parametrize(
    ("status", "word"), [(-11, "SIGSEGV"), (7, "exit status 7"), (None, "unknown status"), (-250, "signal 250")]
)
def test_how_a_process_ended_in_a_word(status: int | None, word: str) -> None:
    assert exit_word(status) == word


def test_a_record_is_recalled_unless_a_worse_one_is_known() -> None:
    quarantine = Quarantine()
    assert quarantine.recall("m", Strikes(2, "SIGSEGV", False))
    assert not quarantine.recall("m", Strikes(1, "SIGKILL", False))
    quarantine.struck("m", "SIGABRT", False)
    assert "3 runs in a row" in quarantine.reason("m")
    quarantine.record("m", None)
    assert quarantine.reasons() == {}


def test_a_channel_carries_messages_and_files_in_order() -> None:
    one, other = (Channel(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    read, write = os.pipe()
    for number in range(200):  # more than fit into the socket while nobody reads
        one.send({"number": number, "text": "x" * 5000}, os.dup(write) if number == 100 else -1)
    files = []
    for number in range(200):
        received = other.receive()
        assert received is not None
        assert received[0]["number"] == number
        if received[1] >= 0:
            files.append((number, received[1]))
    ((number, fd),) = files
    assert number == 100
    os.write(fd, b"through")
    assert os.read(read, 100) == b"through"
    for each in (read, write, fd):
        os.close(each)
    one.close()
    assert other.receive() is None
    other.close()


class FrontDoor:
    """A front door without models."""

    def __init__(self) -> None:
        self.lost = threading.Event()

    def placed(self, session: int, placement: Placement) -> None:
        placement.control.close()

    def has_ended(self, process: int) -> None:
        pass

    def judged(self, process: int, verdict: Verdict) -> None:
        pass

    def manager_lost(self) -> None:
        self.lost.set()


class House:
    """Managers that follow each other, and two front doors with sockets to them."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.settings = IsolationSettings(isolation="all")
        self.doors = [FrontDoor(), FrontDoor()]
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in self.doors]
        self.brings = [stack.enter_context(near) for near, _ in pairs]
        self.remotes = [RemoteManager(self.settings, stack.enter_context(far)) for _, far in pairs]
        for remote, door in zip(self.remotes, self.doors, strict=True):
            remote.welcome(door)
            stack.callback(remote.close)
        self.manager = self.begin()

    def begin(self) -> Manager:
        lines: list[DoorLine] = []

        def told(identity: str, strikes: Strikes | None) -> None:
            for line in lines:
                line.tell_record(identity, strikes)

        manager = self.manager = Manager(self.settings, told)
        self.stack.callback(manager.close)
        self.channels = []
        for bring in self.brings:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.channels.append(Channel(near))
            lines.append(DoorLine(manager, self.channels[-1], lambda line: None))
            with far:
                socket.send_fds(bring, [b"m"], [far.fileno()])
        for line in lines:
            line.open()
        return manager

    def end(self) -> None:
        """The manager dies."""
        for channel in self.channels:
            channel.close()


@pytest.fixture
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


def test_records_reach_all_front_doors_and_the_next_manager(house: House) -> None:
    first, second = house.remotes
    strikes = Strikes(3, "SIGSEGV", False)
    house.manager.recall("m", strikes)
    until(lambda: first.quarantine.reason("m") and second.quarantine.reason("m"))
    house.end()
    assert all(door.lost.wait(10) for door in house.doors)
    manager = house.begin()
    for each in (first, second):  # what it remembers was sent before this question
        with pytest.raises(BackendNotInstalled):
            each.import_backend("NOBODY_HAS_IT")
    assert manager.quarantine.reason("m")
    assert first.rename("m", "n").result(20) is None
    assert manager.quarantine.reasons().keys() == {"n"}, "the manager had done it"
    until(lambda: all(each.quarantine.reasons().keys() == {"n"} for each in (manager, first, second)))
    first.clear("n")
    until(lambda: not any(each.quarantine.reasons() for each in (manager, first, second)))


def test_a_request_waits_for_the_next_manager(house: House) -> None:
    house.end()
    assert house.doors[0].lost.wait(10)
    with pytest.raises(ManagerLost):  # the event loop does not wait for one
        house.remotes[0].rename("m", "n").result(20)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            house.remotes[0].import_backend("NOBODY_HAS_IT")
        except BackendNotInstalled as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    house.begin()
    thread.join(30)
    assert "NOBODY_HAS_IT" in str(errors[0])


def test_a_front_door_that_closes_asks_for_nothing_more(house: House) -> None:
    house.end()
    assert house.doors[0].lost.wait(10)
    house.remotes[0].close()
    with pytest.raises(BackendError, match="the manager of the engine processes is not there"):
        house.remotes[0].place(house.doors[0], Wanted(1, "m", "ONNX"))


def test_a_closed_manager_starts_nothing() -> None:
    """The spare process that is due soon after a load is no exception: it would be left over."""
    manager = Manager(IsolationSettings(isolation="all"), lambda *_: None)
    manager.close()
    with pytest.raises(Overloaded, match="shutting down"):
        manager.import_backend("ONNX")
    assert manager.zygotes == []


def test_a_front_door_that_has_ended_gets_no_process() -> None:
    """It ended while its request waited for a backend's import: nobody would ever leave the process."""
    manager, door = Manager(IsolationSettings(isolation="all"), lambda *_: None), FrontDoor()
    manager.welcome(door)
    manager.left(door)
    with pytest.raises(Overloaded, match="the front door has ended"):
        manager.place(door, Wanted(1, "m", "ONNX"))
    assert manager.zygotes == []
    manager.close()
