"""What a client may make the server hold: little before it has authenticated, and bounded after."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import psutil
import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.support import FrontDoor, RedisServer, exchange, raw_socket

MEGABYTE = 1024 * 1024
ELEVEN_WORDS = b"*11\r\n" + b"$1\r\nx\r\n" * 11
LONG_WORD = b"*2\r\n$3\r\nGET\r\n$16385\r\n" + b"x" * 16385 + b"\r\n"
QUIT = b"QUIT\r\n"
REFUSALS = {
    ELEVEN_WORDS: b"-ERR Protocol error: unauthenticated multibulk length\r\n",
    b"*11\r\n": b"-ERR Protocol error: unauthenticated multibulk length\r\n",
    b"*1000000\r\n": b"-ERR Protocol error: unauthenticated multibulk length\r\n",
    LONG_WORD: b"-ERR Protocol error: unauthenticated bulk length\r\n",
    b"*2\r\n$3\r\nGET\r\n$500000000\r\n": b"-ERR Protocol error: unauthenticated bulk length\r\n",
    b"*2147483648\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
}


@pytest.fixture
def password(bare: redis.Redis) -> Iterator[str]:
    """Redis asks for this one meanwhile."""
    bare.config_set("requirepass", "pw")
    yield "pw"
    bare.execute_command("AUTH", "pw")
    bare.config_set("requirepass", "")


@pytest.mark.parametrize("data", list(REFUSALS), ids=lambda data: repr(data[:40]))
def test_before_authentication_commands_are_short(data: bytes, password: str, front_door: FrontDoor) -> None:
    assert exchange(front_door.port, data, 10**6) == REFUSALS[data]
    noauth = b"-NOAUTH Authentication required.\r\n"
    before = b"PING\r\nAI.TENSORGET t\r\n"
    assert exchange(front_door.port, before + data, 10**6) == noauth * 2 + REFUSALS[data]
    assert exchange(front_door.port, b"AUTH wrong\r\n" + data, 10**6).endswith(REFUSALS[data])
    assert exchange(front_door.port, b"AUTH pw\r\nRESET\r\n" + data, 10**6) == b"+OK\r\n+RESET\r\n" + REFUSALS[data]


@pytest.mark.parametrize("login", [b"AUTH pw\r\n", b"HELLO 2 AUTH default pw\r\n"])
@pytest.mark.parametrize("split", [False, True], ids=["together", "byte by byte"])
def test_who_logs_in_in_the_same_pipeline_is_served(
    login: bytes, split: bool, password: str, front_door: FrontDoor
) -> None:
    words = b"*12\r\n$3\r\nDEL\r\n" + b"$1\r\nx\r\n" * 11
    large = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000\r\n" + bytes(2_000_000) + b"\r\n"
    tensor = b"*6\r\n$12\r\nAI.TENSORSET\r\n$1\r\nt\r\n$5\r\nUINT8\r\n$7\r\n2000000\r\n$4\r\nBLOB\r\n" + large[20:]
    with raw_socket(front_door.port) as client, client.makefile("rb") as answers:
        data = login + words + large[:200]
        for at in range(0, len(data), 1 if split else len(data)):
            client.sendall(data[at : at + (1 if split else len(data))])
        client.sendall(large[200:] + tensor + b"ECHO end\r\n")
        received = b""
        while not received.endswith(b"end\r\n"):
            received += answers.readline() or pytest.fail(f"closed behind {received!r}")
    assert received.endswith(b":0\r\n+OK\r\n+OK\r\n$3\r\nend\r\n")


def test_without_a_password_nobody_need_log_in(front_door: FrontDoor, bare: redis.Redis) -> None:
    assert exchange(front_door.port, ELEVEN_WORDS + QUIT, 10**6).startswith(b"-ERR unknown command")
    assert exchange(front_door.port, LONG_WORD + QUIT, 10**6) == b"$-1\r\n+OK\r\n"
    assert (
        exchange(front_door.port, b"MULTI\r\n" + LONG_WORD + b"EXEC\r\n" + QUIT, 10**6)
        == b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n+OK\r\n"
    )


def test_a_user_who_may_not_ping_is_served(front_door: FrontDoor, bare: redis.Redis) -> None:
    bare.acl_setuser("quiet", enabled=True, passwords=["+q"], keys=["*"], commands=["+get", "-ping"])
    try:
        assert exchange(front_door.port, b"AUTH quiet q\r\n" + LONG_WORD + QUIT, 10**6) == b"+OK\r\n$-1\r\n+OK\r\n"
    finally:
        bare.acl_deluser("quiet")


def test_what_is_sent_before_authentication_is_not_kept(password: str, front_door: FrontDoor) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(raw_socket(front_door.port))
            client.settimeout(0.2)
            with contextlib.suppress(OSError):  # replies are not read: at some time nothing more is taken
                for _ in range(200):
                    client.sendall(b"*2\r\n$3\r\nGET\r\n$16384\r\n" + bytes(16384) + b"\r\n")
                    client.sendall(b"GET x\r\n" * 2000)
        assert process.memory_info().rss - before < 60 * MEGABYTE


@pytest.fixture
def bounded(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A server that holds little."""
    server = FrontDoor(
        Config(
            redis=redis_server.url,
            port=0,
            client_query_buffer_limit=8 * MEGABYTE,
            maxmemory_clients=24 * MEGABYTE,
            drain_timeout_s=1,
        )
    )
    yield server
    server.stop()


def _send_on(client: socket.socket, piece: bytes, most: int) -> int:
    """How many bytes were taken before the other side closed."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"*1000000\r\n$5\r\nRPUSH\r\n", b"$1000\r\n" + bytes(1000) + b"\r\n"),
        (b"*1000000\r\n$5\r\nRPUSH\r\n", b"$100000\r\n" + bytes(100_000) + b"\r\n"),
        (b"*10000000\r\n$5\r\nRPUSH\r\n", b"$2\r\nab\r\n" * 1000),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\n", bytes(100_000)),
        (
            b"*9\r\n$13\r\nAI.MODELSTORE\r\n$1\r\nm\r\n$5\r\nTORCH\r\n$3\r\nCPU\r\n$4\r\nBLOB\r\n$400000000\r\n",
            bytes(99_999),
        ),
    ],
    ids=["words", "large words", "tiny words", "one word", "a model"],
)
def test_one_client_is_bounded(begin: bytes, piece: bytes, bounded: FrontDoor, bare: redis.Redis) -> None:
    with raw_socket(bounded.port) as client:
        client.sendall(begin)
        assert _send_on(client, piece, 40 * MEGABYTE) < 30 * MEGABYTE  # what sockets hold is taken, too
    with talk(bounded.port) as other:
        other.given("PING", "AI.TENSORSET t INT8 1 VALUES 1")
        big = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$7000000\r\n" + bytes(7_000_000) + b"\r\n"
        for _ in range(5):
            other.socket.sendall(big)
            assert other.reply() == "+OK"


def test_all_clients_together_are_bounded(bounded: FrontDoor, bare: redis.Redis) -> None:
    """Who holds most goes first; those who hold little stay."""
    begin = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$7000000\r\n"
    with contextlib.ExitStack() as stack:
        small = stack.enter_context(talk(bounded.port))
        small.given("PING")
        holding = [stack.enter_context(raw_socket(bounded.port)) for _ in range(8)]
        for number, client in enumerate(holding):
            client.settimeout(20)
            with contextlib.suppress(ConnectionError):
                client.sendall(begin + bytes(5_000_000 + 10_000 * number))
            small.given("PING")
        closed = 0
        for client in holding:
            with contextlib.suppress(ConnectionError):
                client.settimeout(0.3)
                try:
                    closed += client.recv(1000) is not None
                except TimeoutError:
                    continue
        assert 3 <= closed <= 5
        small.given("PING", "AI.TENSORSET t INT8 1 VALUES 1")
