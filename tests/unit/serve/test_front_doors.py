"""The parts with which several front doors look like one server: sums, messages, the hub, and who gets a connection."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from redisai_py.errors import ProtocolError
from redisai_py.ops.siblings import LinkedSiblings, Reply
from redisai_py.serve.acceptor import ADMITTED, REFUSED, Acceptor, Arrivals
from redisai_py.serve.door_page import DoorPage, Row
from redisai_py.serve.figures import MOST_TOPICS, Book, added
from redisai_py.serve.hub import PATIENCE_S, Hub
from redisai_py.serve.messages import LONGEST, Unpacker, pack

LINES: list[socket.socket] = []

# -- figures -----------------------------------------------------------------------------------------------------------


def test_trees_are_added_leaf_by_leaf() -> None:
    one = {"calls": 3, "times": {"1": 2, "7": 1}, "sum_s": 0.5}
    other = {"calls": 4, "times": {"7": 5, "9": 1}, "errors": 2}
    assert added(one, other) == {"calls": 7, "times": {"1": 2, "7": 6, "9": 1}, "sum_s": 0.5, "errors": 2}
    assert one["times"] == {"1": 2, "7": 1}


def test_what_is_no_number_is_left_out() -> None:
    assert added({"a": "text", "b": [1], "c": 1, "d": {"x": 1}}, {"c": {"x": 1}, "d": 2}) == {}
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert added(deep, deep)["a"]


def test_what_an_ended_front_door_has_counted_stays_counted() -> None:
    book = Book()
    book.tell(1, {"net": {"calls": 3}})
    book.tell(2, {"net": {"calls": 4}, "other": {"calls": 1}})
    assert book.of_others(1, ["net"]) == {"net": {"calls": 4}}
    book.ended(2)
    assert book.of_others(1, ["net"]) == {"net": {"calls": 4}}
    assert book.of_others(3, None) == {"net": {"calls": 7}, "other": {"calls": 1}}
    book.tell(3, {"net": {"calls": 2}})
    book.ended(3)
    assert book.of_others(9, ["net", "unknown"]) == {"net": {"calls": 9}, "unknown": {}}


def test_counting_anew_and_forgetting_concern_those_that_have_ended_too() -> None:
    book = Book()
    for door in (1, 2):
        book.tell(door, {"net": {"calls": 3, "loads": 1}})
    book.ended(1)
    book.reset("net", ("loads",))
    assert book.of_others(9, ["net"]) == {"net": {"loads": 2}}
    book.forget("net")
    assert book.of_others(9, None) == {}


def test_a_book_keeps_the_topics_told_last() -> None:
    book = Book()
    for i in range(MOST_TOPICS + 5):
        book.tell(1, {str(i): {"calls": 1}, "always": {"calls": i}})
    known = book.of_others(2, None)
    assert len(known) == MOST_TOPICS
    assert "always" in known
    assert "0" not in known


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages_are_found_however_they_are_cut() -> None:
    messages: list[dict[str, Any]] = [{"op": "figures", "figures": {"net": {"calls": i}}} for i in range(3)]
    data = b"".join(map(pack, messages))
    for step in (1, 2, 7, len(data)):
        unpacker = Unpacker()
        found = [each for at in range(0, len(data), step) for each in unpacker.feed(data[at : at + step])]
        assert found == messages


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IQ", LONGEST + 1, 0),
        struct.pack(">IQ", 2, 2) + b"{}xx",
        struct.pack(">IQ", 3, 0) + b"abc",
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 4, 0) + b"null",
        struct.pack(">IQ", 200_000, 0) + b"[" * 200_000,
        struct.pack(">IQ", 2, 0) + b"\xff\xff",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Unpacker().feed(data)


def test_nobody_sends_a_message_that_is_too_long() -> None:
    with pytest.raises(ProtocolError):
        pack({"x": "x" * LONGEST})


# -- the hub -----------------------------------------------------------------------------------------------------------


class Door:
    """A front door's end of its line, in blocking style for a test on the same event loop."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        LINES.append(line)
        self.line = line
        self.broken = False
        self._unpacker = Unpacker()
        self._come: list[dict[str, Any]] = []

    def break_off(self) -> None:
        self.broken = True

    async def say(self, **message: Any) -> None:
        await asyncio.get_running_loop().sock_sendall(self.line, pack({"figures": {}, **message}))

    async def hear(self) -> dict[str, Any]:
        while not self._come:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.line, 65536), 20)
            assert data, "the hub hung up"
            self._come += self._unpacker.feed(data)
        return self._come.pop(0)


async def joined(hub: Hub, *numbers: int) -> list[Door]:
    """Front doors that have started."""
    doors = [await starting(hub, number) for number in numbers]
    for door in doors:
        await door.say(op="figures")
    await asyncio.sleep(0.01)
    return doors


async def starting(hub: Hub, number: int) -> Door:
    ours, theirs = socket.socketpair()
    door = Door(ours)
    await hub.join(number, theirs, door.break_off)
    return door


def run(test: Callable[[], Any]) -> None:
    """Run it, and let the hub see the end of all lines."""

    async def whole() -> None:
        try:
            await asyncio.wait_for(test(), 60)
        finally:
            while LINES:
                LINES.pop().close()
            await asyncio.sleep(0.01)

    asyncio.run(whole())


def test_a_question_goes_to_all_others_and_comes_back_once() -> None:
    async def test() -> None:
        one, two, three = await joined(Hub(), 1, 2, 3)
        await one.say(op="ask", id=7, what={"kind": "state", "topics": ["net"]}, figures={"net": {"calls": 1}})
        for door, calls in ((two, 10), (three, 100)):
            asked = await door.hear()
            assert (asked["op"], asked["what"]["kind"]) == ("do", "state")
            await door.say(op="did", id=asked["id"], reply=calls, figures={"net": {"calls": calls}})
        answer = await one.hear()
        assert (answer["op"], answer["id"], sorted(answer["replies"])) == ("answer", 7, [10, 100])
        assert answer["figures"] == {"net": {"calls": 110}}

    run(test)


def test_without_others_the_answer_comes_at_once() -> None:
    async def test() -> None:
        (one,) = await joined(Hub(), 1)
        await one.say(op="ask", id=1, what={"kind": "state", "topics": ["net"]}, figures={"net": {"calls": 1}})
        assert await one.hear() == {"op": "answer", "id": 1, "replies": [], "figures": {"net": {}}}

    run(test)


def test_one_that_is_late_is_waited_for_once_and_counts_with_its_last_figures() -> None:
    async def test() -> None:
        one, two = await joined(Hub(), 1, 2)
        await two.say(op="figures", figures={"net": {"calls": 5}})
        clock = asyncio.get_running_loop().time
        took = []
        for number in range(3):
            began = clock()
            await one.say(op="ask", id=number, what={"kind": "state", "topics": ["net"]})
            answer = await one.hear()
            took.append(clock() - began)
            assert answer["figures"] == {"net": {"calls": 5}}
        assert took[0] >= PATIENCE_S * 0.9
        assert took[1] + took[2] < PATIENCE_S
        asked = await two.hear()
        await two.say(op="did", id=asked["id"], reply=None)  # late: nobody waits for that answer any more
        await one.say(op="ask", id=9, what={"kind": "set", "name": "x", "value": 1, "changes": True})
        assert (await two.hear())["what"]["kind"] == "set"

    run(test)


def test_one_that_still_starts_holds_up_nobody_and_is_told_of_changes() -> None:
    async def test() -> None:
        hub = Hub()
        (one,) = await joined(hub, 1)
        two = await starting(hub, 2)
        clock = asyncio.get_running_loop().time
        began = clock()
        await one.say(op="ask", id=1, what={"kind": "state", "topics": []})
        await one.say(op="ask", id=2, what={"kind": "set", "name": "x", "value": 1, "changes": True})
        assert [(await one.hear())["id"] for _ in range(2)] == [1, 2]
        assert clock() - began < PATIENCE_S
        assert (await two.hear())["what"]["kind"] == "set"
        await two.say(op="figures")
        await asyncio.sleep(0.01)
        await one.say(op="ask", id=3, what={"kind": "state", "topics": []})
        assert (await two.hear())["what"]["kind"] == "state"

    run(test)


def test_one_that_ends_while_it_is_asked_holds_up_nobody() -> None:
    async def test() -> None:
        one, two = await joined(Hub(), 1, 2)
        await two.say(op="figures", figures={"net": {"calls": 5}})
        await one.say(op="ask", id=1, what={"kind": "state", "topics": ["net"]})
        await two.hear()
        two.line.close()
        answer = await one.hear()
        assert (answer["replies"], answer["figures"]) == ([], {"net": {"calls": 5}})

    run(test)


def test_the_last_counts_of_one_that_stops_are_kept_though_it_is_asked_meanwhile() -> None:
    async def nothing(what: dict[str, Any]) -> Reply:
        return Reply()

    async def test() -> None:
        hub = Hub()
        (one,) = await joined(hub, 1)
        ours, theirs = socket.socketpair()
        await hub.join(2, theirs, pytest.fail)
        two = LinkedSiblings(asyncio.get_running_loop(), ours)
        await two.open(nothing)
        await asyncio.sleep(0.01)
        await one.say(op="ask", id=1, what={"kind": "state", "topics": ["net"]})
        two.report({"net": {"calls": 5}})
        await two.close()
        assert (await one.hear())["op"] == "answer"
        assert hub.book.of_others(1, ["net"]) == {"net": {"calls": 5}}
        await one.say(op="ask", id=2, what={"kind": "state", "topics": ["net"]})
        assert (await one.hear())["replies"] == []

    run(test)


def test_one_that_comes_later_is_told_the_settings_that_were_changed() -> None:
    async def test() -> None:
        hub = Hub()
        (one,) = await joined(hub, 1)
        for value in (1, 2):
            await one.say(op="ask", id=value, what={"kind": "set", "name": "SIZE", "value": value, "changes": True})
            await one.hear()
        (two,) = await joined(hub, 2)
        assert (await two.hear())["what"] == {"kind": "set", "name": "SIZE", "value": 2, "changes": True}

    run(test)


@pytest.mark.parametrize(
    "message",
    [
        {"op": "shout", "figures": {}},
        {"figures": {}},
        {"op": "ask", "figures": {}},
        {"op": "ask", "id": "x", "what": {"kind": "state"}, "figures": {}},
        {"op": "ask", "id": 1, "what": {}, "figures": {}},
        {"op": "figures", "figures": 5},
        {"op": "did", "id": [], "figures": {}},
    ],
    ids=json.dumps,
)
def test_one_that_talks_nonsense_is_given_up_alone(message: dict[str, Any]) -> None:
    async def test() -> None:
        one, two = await joined(Hub(), 1, 2)
        await asyncio.get_running_loop().sock_sendall(two.line, pack(message))
        await one.say(op="ask", id=1, what={"kind": "state", "topics": []})
        assert (await one.hear())["id"] == 1
        assert two.broken

    run(test)


# -- who gets a connection ---------------------------------------------------------------------------------------------


class Passing:
    """A listening socket, an acceptor, and the lines of some front doors."""

    def __init__(self, stack: ExitStack, count: int, max_clients: int) -> None:
        self._stack = stack
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self.acceptor = Acceptor([listener], max_clients)
        self.doors: list[tuple[Arrivals, socket.socket]] = []
        for _ in range(count):
            self.add()

    def add(self) -> Arrivals:
        ours, theirs = socket.socketpair()
        theirs.settimeout(20)
        self._stack.callback(theirs.close)
        self._stack.callback(ours.close)
        arrivals = Arrivals(ours)
        self.acceptor.join(arrivals)
        self.doors.append((arrivals, theirs))
        return arrivals

    def serve(self, *numbers: int) -> None:
        for number in numbers:
            self.doors[number][0].serving = self.doors[number][0].ready = True
        self.acceptor.look()

    async def connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            client = self._stack.enter_context(socket.socket())
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", self.port))
        for _ in range(10):  # also if the machine sleeps for longer than one of them
            await asyncio.sleep(0.005)

    def received(self, number: int) -> list[bytes]:
        """The words that came to a front door, each with a connection."""
        line = self.doors[number][1]
        line.setblocking(False)
        words = []
        while True:
            try:
                word, fds, _, _ = socket.recv_fds(line, 1, 1)
            except BlockingIOError:
                return words
            assert len(fds) == 1
            os.close(fds[0])
            words.append(word)


def test_each_connection_goes_to_the_one_with_fewest() -> None:
    async def test() -> None:
        with ExitStack() as stack:
            passing = Passing(stack, 3, 100)
            passing.serve(0, 1, 2)
            await passing.connect(9)
            assert [len(passing.received(n)) for n in range(3)] == [3, 3, 3]
            passing.doors[1][1].send(b"xxx")  # its clients have left
            await passing.connect(3)
            assert [len(passing.received(n)) for n in range(3)] == [0, 3, 0]
            passing.doors[2][0].silent = True
            await passing.connect(2)
            assert len(passing.received(2)) == 0

    run(test)


def test_connections_wait_while_nobody_serves() -> None:
    async def test() -> None:
        with ExitStack() as stack:
            passing = Passing(stack, 2, 100)
            await passing.connect(4)
            assert passing.received(0) == passing.received(1) == []
            passing.serve(1)
            await passing.connect(0)
            assert len(passing.received(1)) == 4
            passing.acceptor.leave(passing.doors[1][0])
            await passing.connect(2)
            passing.serve(0)
            await passing.connect(0)
            assert len(passing.received(0)) == 2

    run(test)


def test_one_too_many_is_passed_on_as_that() -> None:
    async def test() -> None:
        with ExitStack() as stack:
            passing = Passing(stack, 2, 3)
            passing.serve(0, 1)
            await passing.connect(5)
            words = passing.received(0) + passing.received(1)
            assert sorted(words) == sorted([ADMITTED] * 3 + [REFUSED] * 2)

    run(test)


def test_a_front_door_that_reads_nothing_costs_no_connection() -> None:
    async def test() -> None:
        with ExitStack() as stack:
            passing = Passing(stack, 1, 10_000)
            passing.serve(0)
            got = 0
            await passing.connect(400)  # more than its line takes
            for _ in range(20):
                got += len(passing.received(0))
                await passing.connect(0)
            assert got == 400

    run(test)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_each_front_door_sees_what_the_others_hold() -> None:
    page = DoorPage.make()
    other = DoorPage(os.dup(page.fd))
    try:
        seats = [page.take_seat(door) for door in (5, 6)]
        assert len(set(seats)) == 2
        other.hold(seats[1], 1000, 700)
        assert page.rows() == [Row(5, 0, 0), Row(6, 1000, 700)]
        other.busy(seats[1], 0.5, 7.0)
        assert page.rows() == [Row(5, 0, 0), Row(6, 1000, 700, 0.5, 7.0)]
        page.clear(seats[1])
        assert other.rows() == [Row(5, 0, 0)]
        assert page.take_seat(7) == seats[1]
    finally:
        page.close()
        other.close()
