"""Clients that begin to send something large and stop: nobody else waits for them, and they are disconnected."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.support import FrontDoor, RedisServer, raw_socket

_SIZE = 2_000_000


def _begin(key: str, size: int = _SIZE) -> bytes:
    words = ["AI.TENSORSET", key, "UINT8", str(size), "BLOB"]
    head = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*6\r\n{head}${size}\r\n".encode()


@pytest.fixture(scope="module")
def door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A server with a short patience and a small pool."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, upstream_pool=2, upload_timeout_s=2, drain_timeout_s=1))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def patient_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A server with a small pool that waits."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, upstream_pool=2, drain_timeout_s=1))
    yield server
    server.stop()


def test_nobody_waits_for_half_sent_tensors(patient_door: FrontDoor, bare: redis.Redis) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(raw_socket(patient_door.port)) for _ in range(20)]
        for number, client in enumerate(slow):
            client.sendall(_begin(f"slow{number}") + bytes(300_000))
        with talk(patient_door.port) as other:
            other.given(f"AI.TENSORSET large UINT8 {_SIZE}", "AI.TENSORSET middle UINT8 100000")
            for key in ("large", "middle"):
                other.socket.sendall(_begin("whole") + bytes(_SIZE) + b"\r\n")
                assert other.reply() == "+OK"
                other.given(
                    f"AI.TENSORGET {key} BLOB", "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.MODELGET m BLOB"
                )
        for client in slow:  # who is only slow is served in the end
            client.sendall(bytes(_SIZE - 300_000) + b"\r\n")
            assert client.recv(100) == b"+OK\r\n"
        assert bare.exists(*[f"slow{number}" for number in range(20)]) == 20


@pytest.mark.parametrize(
    "begun",
    [
        _begin("t") + bytes(300_000),
        _begin("t") + bytes(_SIZE),
        _begin("t", 500_000) + bytes(300_000),
        b"*3\r\n$3\r\nSET\r\n$1\r\nt\r\n$500000\r\n" + bytes(100),
        b"*4\r\n$5\r\nRPUSH\r\n$1\r\nt\r\n$500000\r\n" + bytes(500_000) + b"\r\n",
        b"*100000\r\n$5\r\nRPUSH\r\n" + b"$1\r\nx\r\n" * 50_000,
        b"*3\r\n$3\r\nGET\r\n$1\r\nx\r\n$0\r\n\r\n" + _begin("t") + bytes(300_000),
    ],
    ids=["a tensor", "all but its end", "a middle one", "a string", "a word of more", "many words", "behind another"],
)
def test_who_stops_sending_is_disconnected(begun: bytes, door: FrontDoor, bare: redis.Redis) -> None:
    with raw_socket(door.port) as client:
        client.settimeout(20)
        client.sendall(begun)
        received = b""
        while piece := client.recv(1000):
            received += piece
    assert received.endswith(b"-ERR upload stalled: no data for 2 s (upload_timeout_s)\r\n")
    assert bare.keys() == []


def test_who_sends_slowly_is_not(door: FrontDoor, bare: redis.Redis) -> None:
    with raw_socket(door.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(20)
        client.sendall(_begin("t") + bytes(_SIZE - 6))
        for piece in (b"a", b"b", b"c", b"d", b"e", b"f", b"\r", b"\n"):
            threading.Event().wait(0.5)
            client.sendall(piece)
        assert client.recv(100) == b"+OK\r\n"


def test_half_a_short_command_may_wait(door: FrontDoor, bare: redis.Redis) -> None:
    """A person types slowly."""
    with raw_socket(door.port) as client:
        client.settimeout(20)
        client.sendall(b"PI")
        threading.Event().wait(3)
        client.sendall(b"NG\r\n")
        assert client.recv(100) == b"+PONG\r\n"
