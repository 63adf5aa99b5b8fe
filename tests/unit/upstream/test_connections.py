"""What comes from Redis, cut into any pieces: replies are counted and built as if it had come at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisai_py.errors import UpstreamError
from redisai_py.pending import Pending
from redisai_py.upstream.large import LargeUpstream
from redisai_py.upstream.private import PrivateUpstream
from tests.wire import read_back

LARGE = 64 * 1024


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


large = st.integers(LARGE - 2, LARGE + 300).map(lambda size: bulk(b"$1\r\n" * (size // 4) + b"x" * (size % 4)))
small = st.sampled_from(
    [b"+OK\r\n", b"-ERR x\r\n", b":5\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", bulk(b""), bulk(b"a\r\n")]
)
replies = st.recursive(
    small | large,
    lambda item: st.lists(item, max_size=4).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
    max_leaves=6,
)


resp3_replies = replies | st.sampled_from(
    [b"#f\r\n", b"#t\r\n", b"_\r\n", b"*2\r\n#f\r\n:1\r\n", b">2\r\n#f\r\n#f\r\n"]
)


def cut(data: bytes, positions: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in positions}), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]


@st.composite
def streams(draw: st.DrawFn, of: st.SearchStrategy[bytes] = replies) -> tuple[list[bytes], list[bytes]]:
    """(replies, chunks of them); cuts fall at the ends of lines more often than chance would have it."""
    sent = draw(st.lists(of, min_size=1, max_size=4))
    data = b"".join(sent)
    ends = [at + 2 for at in range(len(data) - 1) if data[at : at + 2] == b"\r\n"][:50]
    positions = draw(st.lists(st.sampled_from(ends) | st.integers(0, 2**40), max_size=8))
    return sent, cut(data, positions)


@settings(max_examples=120)
@given(streams(resp3_replies))
@example(([b"*2\r\n:1\r\n:2\r\n"], [b"*2\r\n:1\r\n", b":2\r\n"]))
@example(
    ([b"*2\r\n:1\r\n" + bulk(bytes(LARGE))], [b"*2\r\n:1\r\n", b"$65536\r\n" + bytes(9), bytes(LARGE - 9) + b"\r\n"])
)
def test_private_counts_replies_and_knows_their_ends(stream: tuple[list[bytes], list[bytes]]) -> None:
    sent, chunks = stream
    relayed: list[bytes] = []
    counts: list[int] = []
    wholes: list[bool] = []

    def on_data(data: bytes, completed: list[Any], whole: bool) -> None:
        relayed.append(data)
        counts.append(len(completed))
        wholes.append(whole)

    upstream = PrivateUpstream(on_data, lambda why: None)
    for chunk in chunks:
        upstream.data_received(chunk)
    assert relayed == chunks
    ends = list(itertools.accumulate(map(len, sent)))
    received = list(itertools.accumulate(map(len, chunks)))
    completed = [sum(end <= position for end in ends) for position in received]
    assert list(itertools.accumulate(counts)) == completed
    assert wholes == [position in ends for position in received]


@settings(max_examples=120, deadline=None)
@given(streams())
def test_private_knows_what_has_come_of_a_message(stream: tuple[list[bytes], list[bytes]]) -> None:
    sent, chunks = stream
    ends = list(itertools.accumulate(map(len, sent)))
    position = 0

    def on_data(data: bytes, completed: list[Any], whole: bool) -> None:
        nonlocal position
        position += len(data)
        if completed and not whole:
            begun = upstream.begun()
            assert data.endswith(begun)
            assert position - len(begun) == max(end for end in ends if end <= position)

    upstream = PrivateUpstream(on_data, lambda error: None)
    for chunk in chunks:
        upstream.data_received(chunk)


def built(data: bytes) -> Any:
    return plain(read_back(data))


def plain(reply: Any) -> Any:
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return str(reply) if isinstance(reply, Exception) else bytes(reply) if isinstance(reply, memoryview) else reply


def outcome(pending: Pending[Any]) -> Any:
    assert pending.done
    return plain(pending.value) if pending.error is None else str(pending.error)


@settings(max_examples=120)
@given(streams())
def test_large_builds_replies(stream: tuple[list[bytes], list[bytes]]) -> None:
    sent, chunks = stream
    upstream = LargeUpstream()
    pendings = [upstream.expect() for _ in sent]
    for chunk in chunks:
        rest = chunk
        while rest:
            buffer = upstream.get_buffer(-1)
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            upstream.buffer_updated(count)
            rest = rest[count:]
    assert [outcome(pending) for pending in pendings] == [built(reply) for reply in sent]


def test_lost_connections_fail_what_waits() -> None:
    upstream = LargeUpstream()
    waiting = upstream.expect()
    upstream.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(UpstreamError, match="lost: reset; the command may have been applied"):
        waiting.result()
    for late in (upstream.expect(), upstream.call(b"GET", b"k")):
        with pytest.raises(UpstreamError, match="lost"):
            late.result()
