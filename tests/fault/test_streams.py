"""Large tensors on their way through: clients that leave or hurry, a Redis that is slow or full."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
import redis

from redisai_py.config import Config
from tests.proxy import Proxy
from tests.support import FrontDoor
from tests.wire import Wire, value

SIZE = 2_000_000
STREAMED = ("AI.TENSORSET", "y", "UINT8", str(SIZE), "BLOB", b"\1" * SIZE)
LARGE = ("AI.TENSORSET", "z", "UINT8", "100000", "BLOB", b"\1" * 100_000)


@pytest.fixture(scope="module")
def door(proxy: Proxy) -> Iterator[FrontDoor]:
    """A front door behind the proxy that has one connection for what is large."""
    server = FrontDoor(Config(redis=proxy.url, port=0, drain_timeout_s=1, upstream_pool=1))
    yield server
    server.stop()


@pytest.fixture
def client(door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client of the front door."""
    with Wire(door.port) as client:
        assert client("AI.TENSORSET", "small", "UINT8", "1", "BLOB", b"\1") == b"OK"
        yield client


def test_a_client_that_sends_no_more_gets_its_replies(client: Wire, bare: redis.Redis) -> None:
    client.send(*STREAMED)
    client.send("AI.TENSORGET", "y", "META")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.receive() == b"OK"
    assert client.receive() == [b"dtype", b"UINT8", b"shape", [SIZE]]
    with pytest.raises(ConnectionError):
        client.receive()


def test_a_client_that_leaves_before_its_tensor_comes_holds_no_connection(
    client: Wire, door: FrontDoor, proxy: Proxy, bare: redis.Redis
) -> None:
    bare.set("big", value(1, 4_000_000))
    leaver = Wire(door.port)
    leaver.send("AI.TENSORGET", "big", "BLOB")  # what it does not read is in the way when it leaves
    assert leaver.socket.recv(1)

    def leave() -> None:
        before = len(bare.client_list())
        leaver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaver.close()
        for _ in range(200):
            if len(bare.client_list()) < before:  # its own connection to Redis: the server knows
                return
            threading.Event().wait(0.01)

    proxy.before("WATCH", leave)
    leaver.socket.sendall(hiredis.pack_command(STREAMED)[:-SIZE])
    assert client(*LARGE) == b"OK"
    assert proxy.acted
    assert not bare.exists("y")


def test_what_comes_behind_a_tensor_waits_in_the_socket(client: Wire, proxy: Proxy) -> None:
    go_on = threading.Event()
    proxy.before("PERSIST", lambda: go_on.wait(20))
    client.send(*STREAMED)
    behind = hiredis.pack_command(("ECHO", b"x" * 64_000_000))
    sent = 0
    client.socket.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while sent < len(behind):
            sent += client.socket.send(behind[sent : sent + 65536])
    assert sent < 16_000_000, "more than sockets hold"
    go_on.set()
    client.socket.settimeout(20)
    sender = threading.Thread(target=client.socket.sendall, args=(behind[sent:],))
    sender.start()
    assert client.receive() == b"OK"
    assert len(client.receive()) == 64_000_000
    sender.join()


def _tensor(key: str, size: int) -> tuple[Any, ...]:
    return ("AI.TENSORSET", key, "UINT8", str(size), "BLOB", b"\1" * size)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(_tensor("y", 1_040_000), id="held"),
        pytest.param(_tensor("y", 1_048_448), id="streamed"),
        pytest.param(
            ("AI.DAGEXECUTE", "PERSIST", "2", "a", "b", "|>", *_tensor("a", 600_000), "|>", *_tensor("b", 600_000)),
            id="two",
        ),
    ],
)
def test_a_tensor_for_which_there_is_no_memory_is_not_called_too_large(
    client: Wire, bare: redis.Redis, command: tuple[Any, ...]
) -> None:
    before = bare.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    bare.config_set("proto-max-bulk-len", 1024 * 1024)
    bare.config_set("maxmemory", 1)
    try:
        assert str(client(*command)).startswith("OOM ")
    finally:
        bare.config_set("maxmemory", 0)
    try:
        assert client(*command) in (b"OK", [b"OK", b"OK"])
    finally:
        bare.config_set("proto-max-bulk-len", before)
