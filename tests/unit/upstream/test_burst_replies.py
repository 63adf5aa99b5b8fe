"""Replies that need no parsing: whatever comes between them, and however it is cut, everybody gets their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisai_py.errors import UpstreamError
from redisai_py.upstream.burst_replies import BurstReplies
from redisai_py.upstream.shared import SharedUpstream


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


same = st.sampled_from([b"aaaa", b"\r\n$4", b"$4\r\n", b"bbbb"]).map(bulk)
other = st.sampled_from(
    [b"", b"aaa", b"-ERR x\r\n", b"a" * 70_000, b"$4\r\naaaa\r\n" * 20, b"c" * 123456, b"12\r\n"]
).map(lambda value: value if value.startswith(b"-") else bulk(value))
single = st.sampled_from(
    [b"+OK\r\n", b"-ERR x\r\n", b":5\r\n", b"*0\r\n", b"*2\r\n:1\r\n*1\r\n$4\r\naaaa\r\n", bulk(b"aaaa")]
)
rows = st.lists(same, min_size=2, max_size=20) | st.lists(same | other, min_size=2, max_size=6)


class Asked(BurstReplies):
    """Takes strings of one length unparsed."""

    def __init__(self, count: int, got: Callable[[list[Any]], object]) -> None:
        super().__init__(count)
        self.got = got
        self.unparsed = False

    def joint_reply(self, data: bytes, start: int, end: int) -> bytes | None:
        replies = data[start:end]
        size = len(replies) // self.count
        length = replies[: replies.index(b"\n") + 1]
        return replies if all(replies.startswith(length, at) for at in range(0, len(replies), size)) else None

    def answer_together(self, reply: bytes) -> None:
        self.unparsed = True
        self.answer_each(parsed(reply))

    def answer_each(self, replies: list[Any]) -> None:
        self.got(replies)


class Transport:
    """Takes what is written."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        raise AssertionError("the stream gave up")


def parsed(data: bytes) -> list[Any]:
    reader = hiredis.Reader(notEnoughData=Transport)
    reader.feed(data)
    return [reply for reply in iter(reader.gets, Transport)]


def text(value: Any) -> Any:
    return str(value) if isinstance(value, Exception) else value


async def receive(
    asked: Sequence[bytes | list[bytes]], pieces: Sequence[int], late: bool
) -> tuple[list[Any], list[Asked]]:
    """What the callbacks got, and the bursts. late: a command is sent when the replies before it have begun to come."""
    stream = SharedUpstream()
    stream.transport = Transport()
    got: list[Any] = []
    sent: list[Asked] = []
    waiting = iter(asked)

    def send() -> None:
        for item in waiting:
            if isinstance(item, list):
                sent.append(Asked(len(item), got.extend))
                stream.send_all(b"x", sent[-1])
            else:
                stream.send(b"x", got.append)
            if late:
                return

    data = b"".join(item if isinstance(item, bytes) else b"".join(item) for item in asked)
    starts = list(
        itertools.accumulate((len(item if isinstance(item, bytes) else b"".join(item)) for item in asked), initial=0)
    )
    edges = sorted({0, len(data), *(piece % (len(data) + 1) for piece in pieces)})
    for start, stop in itertools.pairwise(edges):
        while starts and starts[0] < stop:
            starts.pop(0)
            send()
        stream.data_received(data[start:stop])
    assert not stream.awaits_reply
    return got, sent


@settings(max_examples=300, deadline=None)
@given(st.lists(single | rows, min_size=1, max_size=8), st.lists(st.integers(0, 2**31), max_size=6), st.booleans())
@example([[bulk(b"aaaa")] * 3, b"+OK\r\n", [bulk(b"aaaa")] * 3], [4, 9, 15, 16, 40], False)
@example([[bulk(b"aaaa"), bulk(b"aaaa"), bulk(b"")]], [11, 14], False)
@example([[bulk(b"aaaa"), b"-ERR x\r\n"], b":1\r\n"], [10, 11], True)
def test_everybody_gets_their_own(asked: list[bytes | list[bytes]], pieces: list[int], late: bool) -> None:
    got, _ = asyncio.run(receive(asked, pieces, late))
    assert list(map(text, got)) == [
        text(value) for item in asked for value in parsed(item if isinstance(item, bytes) else b"".join(item))
    ]


@pytest.mark.parametrize("pieces", [[], [5], [12, 25, 26], [1, 2, 3, 39, 41, 59]])
def test_alike_replies_are_not_parsed(pieces: list[int]) -> None:
    asked: list[bytes | list[bytes]] = [[bulk(b"aaaa")] * 4, [bulk(b"bb")] * 3, [bulk(b"cccc")] * 2, b"+OK\r\n"]
    got, sent = asyncio.run(receive(asked, pieces, False))
    assert got == [*[b"aaaa"] * 4, *[b"bb"] * 3, *[b"cccc"] * 2, b"OK"]
    assert [row.unparsed for row in sent] == [True] * 3


@pytest.mark.parametrize("come", [0, 3, 10, 14, 29])
def test_a_lost_connection_ends_each(come: int) -> None:
    async def lose() -> list[Any]:
        stream = SharedUpstream()
        stream.transport = Transport()
        got: list[Any] = []
        stream.send_all(b"x", Asked(3, got.extend))
        stream.data_received((bulk(b"aaaa") * 3)[:come])
        stream.connection_lost(None)
        return got

    got = asyncio.run(lose())
    whole = come // len(bulk(b"aaaa"))
    assert got[:whole] == [b"aaaa"] * whole
    assert len(got) == 3
    assert all(isinstance(reply, UpstreamError) for reply in got[whole:])


def test_what_is_no_reply_ends_the_stream() -> None:
    async def receive_garbage() -> list[str]:
        aborted: list[str] = []
        stream = SharedUpstream()
        stream.transport = Transport()
        stream.transport.abort = lambda: aborted.append("aborted")
        stream.send_all(b"x", Asked(3, aborted.append))
        stream.data_received(b"$x\r\n" + b"y" * 40)
        return aborted

    assert asyncio.run(receive_garbage()) == ["aborted"]
