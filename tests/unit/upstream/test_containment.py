"""An exception in a callback costs the client that asked, and nobody else: streams of many clients go on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.pending import Pending
from redisai_py.store.set_stream import SetStream
from redisai_py.upstream.containment import contain
from redisai_py.upstream.shared import SharedUpstream


class Client:
    """What `contain` needs of a connection."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def broken(self, error: BaseException) -> None:
        self.errors.append(error)

    def fails(self, *_: Any) -> None:
        raise OverflowError("a bug")


class Member:
    def __init__(self, client: Client) -> None:
        self.turn = client


class Transport:
    """Takes what is written, and is not ended by anything."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def _raises(*_: Any) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    "asked",
    [
        lambda client: client,
        lambda client: client.fails,
        lambda client: partial(_raises, client, b"key"),
        lambda client: partial(_raises, [(client, b"burst")]),
        lambda client: partial(_raises, [Member(client)], [(b"key", b"raw")], {}),
        lambda client: partial(client.fails, 1),
    ],
)
def test_who_asked_is_found(asked: Any) -> None:
    client, error = Client(), OverflowError()
    contain(asked(client), error)
    assert client.errors == [error]


def test_nobody_is_told_twice_and_nobody_is_no_failure() -> None:
    first, second, error = Client(), Client(), OverflowError()
    contain(partial(_raises, [(first, 1), (second, 2), (first, 3)]), error)
    assert (first.errors, second.errors) == ([error], [error])
    contain(_raises, error)
    contain(Pending(), error)


def test_a_shared_stream_goes_on_behind_a_callback_that_raises() -> None:
    async def scenario() -> None:
        stream, transport = SharedUpstream(), Transport()
        stream.connection_made(transport)
        client, got = Client(), []
        stream.send(b"a", partial(_raises, client))
        stream.send(b"b", got.append)
        woken = stream.call("PING")
        woken.waiter = client.fails
        stream.send(b"c", got.append)
        stream.data_received(b"+1\r\n+2\r\n+PONG\r\n+3\r\n")
        assert got == [b"2", b"3"]
        assert len(client.errors) == 1, "the requester of the first; nobody else is found behind what has been woken"
        assert not transport.aborted
        assert not stream.closed
        stream.send(b"d", partial(_raises, client))
        stream.send(b"e", got.append)
        stream.connection_lost(None)
        assert len(client.errors) == 2
        assert len(got) == 3, "the others hear of the loss all the same"

    asyncio.run(scenario())


def test_the_stream_of_groups_goes_on() -> None:
    async def scenario() -> None:
        stream, transport = SetStream(), Transport()
        stream.connection_made(transport)
        client, got = Client(), []
        stream.ask(b"a", b"+OK\r\n", 1, partial(_raises, client))
        stream.ask(b"b", b"+OK\r\n", 1, got.append)
        stream.data_received(b"+OK\r\n+OK\r\n")
        assert (len(client.errors), got) == (1, [None])

    asyncio.run(scenario())


def test_whoever_wakes_a_coroutine_does_not_bear_what_its_end_raises() -> None:
    client, reply = Client(), Pending[int]()

    async def command() -> int:
        return await reply

    run_eagerly(command(), client.fails)
    reply.resolve(5)
    assert [type(error) for error in client.errors] == [OverflowError]
