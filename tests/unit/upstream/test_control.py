"""The server's own connection to Redis: whose it is, and that it does not hang with a Redis that hangs."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from redisai_py.errors import UpstreamError, UpstreamLost
from redisai_py.upstream import control as control_module
from redisai_py.upstream.address import Address, Identity
from redisai_py.upstream.control import Control, own_identity


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        ("redis://h:1", Identity()),
        ("redis://:pw@h:1", Identity(b"default", b"pw")),
        ("rediss://u:p%40s%2F%3A@h:1", Identity(b"u", b"p@s/:")),
        ("redis://user%20name:p%C3%A9@h", Identity(b"user name", "p\u00e9".encode())),
        ("unix://u:pw@/tmp/x.sock", Identity(b"u", b"pw")),
        ("unix:///tmp/x.sock", Identity()),
    ],
)
def test_the_urls_credentials(url: str, identity: Identity) -> None:
    assert own_identity(url) == identity


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:p@h:1", Address("h", 1)),
        ("redis://h", Address("h", 6379)),
        ("rediss://:p@[::1]:7", Address("::1", 7, tls=True)),
        ("unix://u:pw@/tmp/x.sock", Address(path="/tmp/x.sock")),
        ("unix:///tmp/x%20y.sock", Address(path="/tmp/x y.sock")),
    ],
)
def test_an_address_has_no_credentials(url: str, address: Address) -> None:
    assert Address.from_url(url) == address


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_redis_that_hangs_is_given_up_and_asked_anew(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs at SETNAME, at SCRIPT LOAD, at PING; a second connection is answered."""
    monkeypatch.setattr(control_module, "PING_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        connections = 0

        async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            left = answers if connections == 1 else 100
            while await reader.read(65536):
                if left:
                    writer.write(b"+PONG\r\n")
                    left -= 1
            writer.close()

        server = await asyncio.start_server(redis, "127.0.0.1", 0)
        control = Control(Address("127.0.0.1", server.sockets[0].getsockname()[1]), Identity())
        with pytest.raises(UpstreamError, match="does not answer within"):
            await control.ping()
        monkeypatch.setattr(control_module, "PING_TIMEOUT_S", 10)
        assert await control.ping() < 10
        assert connections == 2
        control.close()
        server.close()
        with pytest.raises(UpstreamError, match="unreachable"):
            await control.ping()

    uvloop.run(scenario())


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_all_that_ask_a_redis_that_hangs_are_told(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe, a scrape and the sweep ask at about the same time; the first to lose patience gives up the connection
    that all of them wait for.
    """
    monkeypatch.setattr(control_module, "PING_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(answers):
                await reader.read(65536)
                writer.write(b"+PONG\r\n")
            while await reader.read(65536):
                pass
            writer.close()

        server = await asyncio.start_server(redis, "127.0.0.1", 0)
        control = Control(Address("127.0.0.1", server.sockets[0].getsockname()[1]), Identity())
        asked = [asyncio.create_task(control.ping()) for _ in range(2)]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(control.ping()))
        if answers < 2:
            asked.append(asyncio.create_task(control.access()))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UpstreamLost] * len(asked)
        assert all("upstream Redis" in str(outcome) for outcome in outcomes)
        cancelled = asyncio.create_task(control.ping())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        control.close()
        server.close()

    uvloop.run(scenario())


@pytest.mark.parametrize(
    ("reply", "is_there"),
    [
        ("NOAUTH Authentication required.", True),
        ("NOPERM this user has no permissions", True),
        ("LOADING Redis is loading the dataset in memory", False),
        ("MASTERDOWN Link with MASTER is down", False),
    ],
)
def test_which_errors_are_an_answer(reply: str, is_there: bool) -> None:
    async def scenario() -> None:
        async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                writer.write(f"-{reply}\r\n".encode())
            writer.close()

        server = await asyncio.start_server(redis, "127.0.0.1", 0)
        control = Control(Address("127.0.0.1", server.sockets[0].getsockname()[1]), Identity(b"u", b"p"))
        try:
            if is_there:
                assert await control.ping() >= 0
            else:
                with pytest.raises(UpstreamError, match=reply):
                    await control.ping()
        finally:
            control.close()
            server.close()

    uvloop.run(scenario())
