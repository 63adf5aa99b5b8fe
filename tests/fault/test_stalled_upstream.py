"""A Redis that stops reading for a while: its clients wait, and not in this server's memory."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, raw_socket, redis_binaries

_SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n%b\r\n" % (b"x" * 1000)
_MUCH = 100 * 1024 * 1024


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be stopped."""
    server = RedisServer(next(iter(redis_binaries().values())), tmp_path)
    yield server
    server.stop()


def test_what_a_stalled_redis_does_not_take_is_not_taken_from_the_client(stock: RedisServer) -> None:
    server = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=1))
    assert stock.process is not None
    pid = stock.process.pid
    try:
        with raw_socket(server.port) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(100) == b"+PONG\r\n"
            os.kill(pid, signal.SIGSTOP)
            sent = _send_until_blocked(client, _SET)
            assert sent < _MUCH
            os.kill(pid, signal.SIGCONT)
            client.settimeout(20)
            client.sendall(_SET[sent % len(_SET) or len(_SET) :] + b"ECHO the-end\r\n")
            received = b""
            while not received.endswith(b"the-end\r\n"):
                received += client.recv(1 << 20)
            assert received == b"+OK\r\n" * -(-sent // len(_SET)) + b"$7\r\nthe-end\r\n"
    finally:
        os.kill(pid, signal.SIGCONT)
        server.stop()


def _send_until_blocked(client: socket.socket, command: bytes) -> int:
    """How many bytes of that command, repeated, were taken."""
    block = command * 100
    sent = 0
    client.settimeout(1)
    try:
        while sent < _MUCH:
            sent += client.send(block[sent % len(block) :])
    except TimeoutError:
        pass
    return sent
