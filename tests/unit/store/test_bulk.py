"""The connection on which tensors are written together: what Redis answers is compared, or taken apart."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

from redisai_py.ai.tensor_sets import SetTensors
from redisai_py.errors import UpstreamError
from redisai_py.resp.templates import KeyTemplate
from redisai_py.store.bulk import GroupMember, GroupSets
from redisai_py.store.set_stream import SetStream
from redisai_py.tensor import DType, Tensor


class _Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def set_write_buffer_limits(self, **_: int) -> None:
        """Not needed."""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def close(self) -> None:
        """Remember that."""
        self.closed = True


async def _stream() -> SetStream:
    stream = SetStream()
    stream.connection_made(_Transport())
    return stream


def _feed(pieces: list[bytes]) -> list[Any]:
    """What two questions are told, the first of two replies and the second of one."""

    async def run() -> list[Any]:
        stream = await _stream()
        told: list[Any] = []
        stream.ask(b"a", b"+OK\r\n$2\r\nxy\r\n", 2, told.append)
        stream.ask(b"b", b"+OK\r\n", 1, told.append)
        for piece in pieces:
            stream.data_received(piece)
        assert stream.transport.written == [b"a", b"b"]
        return told

    return asyncio.run(run())


def test_expected_replies() -> None:
    whole = b"+OK\r\n$2\r\nxy\r\n+OK\r\n"
    assert _feed([whole]) == [None, None]
    assert _feed([whole[n : n + 1] for n in range(len(whole))]) == [None, None]
    assert _feed([whole[:9], whole[9:]]) == [None, None]


def test_other_replies() -> None:
    other = b"+OK\r\n$3\r\nabc\r\n-ERR no\r\n"
    for pieces in ([other], [other[n : n + 1] for n in range(len(other))], [other[:12], other[12:]]):
        first, second = _feed(pieces)
        assert first == [b"OK", b"abc"]
        assert isinstance(second[0], hiredis.ReplyError)


def test_other_replies_before_expected_ones() -> None:
    assert _feed([b"+OK\r\n$0\r\n\r\n+OK\r\n"]) == [[b"OK", b""], None]


def test_a_lost_connection() -> None:
    async def run() -> None:
        stream = await _stream()
        told: list[Any] = []
        stream.ask(b"a", b"+OK\r\n", 1, told.append)
        stream.connection_lost(None)
        assert isinstance(told[0], UpstreamError)
        assert "may have been applied" in str(told[0])
        assert stream.closed

    asyncio.run(run())


def test_closing() -> None:
    async def run() -> None:
        stream = await _stream()
        stream.close()
        assert stream.closed
        assert stream.transport.closed

    asyncio.run(run())


class _Member(GroupMember):
    """A client's commands, as far as groups know them. given: how often they were given back."""

    size = 0

    def __init__(self, kind: Any, words: list[bytes]) -> None:
        self.kind = kind
        self.words = words
        self.given = 0

    def given_back(self) -> None:
        self.given += 1


def test_many_wait_when_the_connection_is_lost() -> None:
    """Each goes its own way, however many groups they would have made."""

    async def run() -> None:
        groups = GroupSets(_stream, lambda: None)
        assert not groups.accepts()  # and so it connects
        await asyncio.sleep(0.01)
        assert groups.accepts()
        template = KeyTemplate(
            b"*6\r\n$12\r\nAI.TENSORSET\r\n$4\r\n", 4, b"\r\n$5\r\nUINT8\r\n$1\r\n1\r\n$4\r\nBLOB\r\n$1\r\n", 1
        )
        action = SetTensors(Tensor(DType.UINT8, (1,), b"x"), template)
        members = [_Member(action, [b"$4\r\n%02x%02d\r\n" % (n % 256, key) for key in range(64)]) for n in range(3000)]
        for member in members:
            groups.add(member)
        await asyncio.sleep(0)
        assert groups._stream is not None
        groups._stream.connection_lost(None)
        assert [member.given for member in members] == [1] * 3000
        last = _Member(action, [b"$1\r\nk\r\n"])
        groups.add(last)
        await asyncio.sleep(0)
        assert last.given == 1, "nobody waits for ever"

    asyncio.run(run())
