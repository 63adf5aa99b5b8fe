"""Which commands may be one commit, and what each is told, on a stream whose replies the test gives."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hiredis

from redisai_py.errors import RedisAIError, UpstreamError, UpstreamLost, WrongType
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.lua import SET_IF_SAME_SHA
from redisai_py.store.writer import Writer
from tests.wire import read_back

Changes = list[tuple[bytes, bytes]]


class Stream:
    """Takes commands; `answer` replies to the oldest."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.waiting: list[Callable[[Any], object]] = []
        self.closed = False

    def send(self, data: bytes, callback: Callable[[Any], object]) -> None:
        if self.closed:
            raise UpstreamError("ERR gone")
        self.sent.append(read_back(data))
        self.waiting.append(callback)

    def flush(self) -> None:
        pass

    def call(self, *words: bytes) -> None:
        self.sent.append(list(words))

    def answer(self, reply: Any) -> None:
        self.waiting.pop(0)(reply)

    @property
    def writes(self) -> list[dict[bytes, bytes]]:
        """What each commit sent writes."""
        found = []
        for words in self.sent:
            count = int(words[2])
            found.append(dict(zip(words[3 : 3 + count], words[3 + count : 3 + 2 * count], strict=True)))
        return found


class Member:
    """Remembers what it was told."""

    def __init__(self, used: dict[str, Entry], *writes: str, options: tuple[bytes, ...] = ()) -> None:
        self.used = [(key.encode(), entry) for key, entry in used.items()]
        self.writes: Changes = [(key.encode(), b"new " + key.encode()) for key in writes]
        self.options = options
        self.turn: Any = SimpleNamespace(gone=False)
        self.dropped_if_gone = True
        self.alone = False
        self.told: list[Any] = []

    def goes_alone(self, stream: Any) -> bool:
        return self.alone

    def committed(self) -> None:
        self.told.append("committed")

    def stale(self) -> None:
        self.told.append("stale")

    def refused(self, error: RedisAIError) -> None:
        self.told.append(error)


class Bench:
    """A commit whose iterations the test ends."""

    def __init__(self, *members: Member) -> None:
        self.stream = Stream()
        self.near = NearCache(1 << 20)
        self.later: list[Callable[[], object]] = []
        self.commits = Writer(self.near, self.stream, self.later.append)  # type: ignore[arg-type]
        self.end_iteration(*members)

    def end_iteration(self, *members: Member) -> None:
        for member in members:
            self.commits.add(member)
        later, self.later[:] = list(self.later), []
        for callback in later:
            callback()


X, OTHER_X, Y = Entry(b"x"), Entry(b"another x"), Entry(b"y")


def test_results_of_an_iteration_go_together() -> None:
    members = [Member({"x": X}, "a"), Member({"x": X, "y": Y}, "b"), Member({}, "c")]
    bench = Bench(*members)
    assert bench.stream.writes == [{b"a": b"new a", b"b": b"new b", b"c": b"new c"}]
    bench.stream.answer(b"OK")
    assert [member.told for member in members] == [["committed"]] * 3
    assert bench.near.entries[b"b"].raw == b"new b"


def test_the_words_of_a_commit() -> None:
    model = Entry(b"id of m", "identity of m")
    after_sha: dict[Member, list[bytes]] = {
        Member({"m": model, "x": X}, "a"): [b"1", b"a", b"new a", b"1", b"1", b"x", b"x", b"m", b"id of m"],
        Member({"m": model, "x": X}, "a", options=(b"EX", b"9")): [
            b"1", b"a", b"new a", b"1", b"1", b"x", b"x", b"m", b"id of m", b"EX", b"9",
        ],
        Member({"m": model}, "a"): [b"1", b"a", b"new a", b"0", b"1", b"m", b"id of m"],
        Member({"m": model, "x": X, "y": Y}): [b"0", b"2", b"1", b"x", b"x", b"y", b"y", b"m", b"id of m"],
    }  # fmt: skip
    for member, words in after_sha.items():
        (sent,) = Bench(member).stream.sent
        assert sent == [b"EVALSHA", SET_IF_SAME_SHA, *words]


def test_what_one_uses_and_an_earlier_one_writes_is_compared_after_the_write() -> None:
    swap = Member({"x": X}, "y"), Member({"y": Y}, "x")
    assert Bench(*swap).stream.writes == [{b"y": b"new y"}, {b"x": b"new x"}]


def test_one_may_write_what_an_earlier_one_used() -> None:
    assert len(Bench(Member({"x": X}, "y"), Member({"z": Y}, "x")).stream.sent) == 1


def test_two_values_of_one_key_are_compared_apart() -> None:
    bench = Bench(Member({"x": X}, "a"), Member({"x": OTHER_X}, "b"), Member({"x": Entry(b"x")}, "c"))
    assert bench.stream.writes == [{b"a": b"new a", b"c": b"new c"}, {b"b": b"new b"}]


def test_another_expiry_is_another_commit() -> None:
    bench = Bench(Member({}, "a"), Member({}, "b", options=(b"EX", b"9")), Member({}, "c"))
    assert bench.stream.writes == [{b"a": b"new a", b"c": b"new c"}, {b"b": b"new b"}]
    assert bench.stream.sent[1][-2:] == [b"EX", b"9"]


def test_a_change_sends_those_who_used_it_away_and_the_others_again() -> None:
    members = [Member({"x": X}, "a"), Member({"y": Y}, "b"), Member({"x": X, "y": Y})]
    bench = Bench(*members)
    bench.near.put(b"x", b"x")
    bench.stream.answer(1)
    assert [member.told for member in members] == [["stale"], [], ["stale"]]
    assert b"x" not in bench.near.entries
    bench.end_iteration()
    assert bench.stream.writes[1:] == [{b"b": b"new b"}]
    bench.stream.answer(b"OK")
    assert members[1].told == ["committed"]


def test_a_refusal_is_told_to_the_one_to_blame() -> None:
    members = [Member({}, "a"), Member({}, "b")]
    bench = Bench(*members)
    wrong = hiredis.ReplyError("WRONGTYPE ...")
    bench.stream.answer(wrong)
    assert bench.stream.writes[1:] == [{b"a": b"new a"}, {b"b": b"new b"}]
    bench.stream.answer(wrong)
    bench.stream.answer(b"OK")
    (refusal,) = members[0].told
    assert isinstance(refusal, WrongType)
    assert str(refusal) == "WRONGTYPE ..."
    assert members[1].told == ["committed"]


def test_a_forgotten_script_is_given_back_and_nothing_was_written() -> None:
    members = [Member({}, "a"), Member({}, "b")]
    bench = Bench(*members)
    del bench.stream.sent[:]
    bench.stream.answer(hiredis.ReplyError("NOSCRIPT No matching script"))
    assert [member.told for member in members] == [["stale"]] * 2
    assert {words[0] for words in bench.stream.sent} == {b"SCRIPT"}


def test_a_user_without_the_right_to_compare_uses_nothing_near_any_more() -> None:
    members = [Member({"x": X}, "a"), Member({}, "b")]
    bench = Bench(*members)
    assert bench.commits.near is not None
    bench.stream.answer(hiredis.ReplyError("UNPROVEN NOPERM ..."))
    assert [member.told for member in members] == [["stale"]] * 2
    assert bench.commits.near is None


def test_lost_on_the_way_nobody_knows() -> None:
    member = Member({"x": X}, "a")
    lost = UpstreamLost("ERR lost")
    Bench(member).stream.answer(lost)
    assert member.told == [lost]


def test_without_a_connection_nothing_was_written() -> None:
    bench = Bench()
    bench.stream.closed = True
    member = Member({"x": X}, "a")
    bench.end_iteration(member)
    assert member.told == ["stale"]


def test_nothing_is_written_for_a_client_that_is_gone() -> None:
    here, gone = Member({"x": X}, "a"), Member({"x": X}, "b")
    gone.turn.gone = True
    assert Bench(gone).stream.sent == []
    assert Bench(gone, here).stream.writes == [{b"a": b"new a"}]


def test_what_was_received_is_written_for_a_client_that_is_gone() -> None:
    gone = Member({}, "b")
    gone.turn.gone, gone.dropped_if_gone = True, False
    assert Bench(gone).stream.writes == [{b"b": b"new b"}]


def test_one_that_nobody_joins_may_go_alone() -> None:
    member = Member({}, "a")
    member.alone = True
    assert Bench(member).stream.sent == []
    assert Bench(member, Member({}, "b")).stream.writes == [{b"a": b"new a", b"b": b"new b"}]


def test_after_a_refusal_each_may_go_alone_for_a_while() -> None:
    bench = Bench(Member({}, "a"), Member({}, "b"))
    bench.stream.answer(hiredis.ReplyError("WRONGTYPE ..."))
    del bench.stream.sent[:]
    members = [Member({}, "c"), Member({}, "d")]
    members[0].alone = True
    bench.end_iteration(*members)
    assert bench.stream.writes == [{b"d": b"new d"}]


def test_a_call_is_bounded() -> None:
    members = [Member({}, f"k{i}") for i in range(40)]
    for member in members:
        member.writes = [(member.writes[0][0], bytes(4096))]
    bench = Bench(*members)
    assert [len(writes) for writes in bench.stream.writes] == [17, 17, 6]


def test_nobody_waits_for_company_that_does_not_come() -> None:
    """A command may go at once while nothing is under way and the others came singly."""
    bench = Bench()
    assert bench.commits.alone
    bench.end_iteration(Member({}, "a"))
    assert not bench.commits.alone, "its reply is outstanding"
    bench.stream.answer(b"OK")
    assert bench.commits.alone
    bench.end_iteration(Member({}, "a"), Member({}, "b"))
    bench.stream.answer(b"OK")
    assert not bench.commits.alone, "several came together"
    bench.end_iteration(Member({}, "a"))
    bench.stream.answer(b"OK")
    assert bench.commits.alone
    bench.commits.stream.closed = True
    assert not bench.commits.alone


def test_who_comes_while_another_is_under_way_has_company() -> None:
    bench = Bench(Member({}, "a"))
    bench.end_iteration(Member({}, "b"))
    bench.stream.answer(b"OK")
    bench.stream.answer(b"OK")
    assert not bench.commits.alone
