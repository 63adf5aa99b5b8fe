"""How much of one client may be under way at Redis, whichever way its commands are recognised."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redisai_py.config import Config
from redisai_py.upstream.shared import SharedUpstream
from tests.support import FrontDoor, RedisServer, raw_socket, redis_binaries

_LIMIT = 1024
_COUNT = 3000


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _set(number: int) -> bytes:
    return _command(b"AI.TENSORSET", b"t", b"INT32", b"1", b"BLOB", number.to_bytes(4, "little"))


WAYS = {
    "remembered frames": lambda number: _command(b"AI.TENSORGET", b"t", b"VALUES"),
    "commands of one form": _set,
    "commands without a payload": lambda number: _command(b"AI.TENSORGET", b"t", b"BLOB"),
    "commands never seen": lambda number: _command(b"AI.TENSORSET", b"k", b"INT32", b"1", b"VALUES", b"%d" % number),
}


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be stopped."""
    server = RedisServer(next(iter(redis_binaries().values())), tmp_path)
    yield server
    server.stop()


@pytest.mark.parametrize("together", [1, 3, 100])
@pytest.mark.parametrize("way", list(WAYS))
def test_commands_under_way_are_bounded(
    way: str, together: int, stock: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]
    send, send_all = SharedUpstream.send, SharedUpstream.send_all

    def watched(self: SharedUpstream, data: bytes, callback: Any) -> None:
        send(self, data, callback)
        most[0] = max(most[0], len(self.waiting))

    def watched_all(self: SharedUpstream, data: bytes, callbacks: Any) -> None:
        send_all(self, data, callbacks)
        most[0] = max(most[0], len(self.waiting))

    server = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=1))
    assert stock.process is not None
    try:
        with raw_socket(server.port) as client, client.makefile("rb") as answers:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(2):  # the second time they are known
                client.sendall(_set(7) + _command(b"PING"))
                assert answers.read(12) == b"+OK\r\n+PONG\r\n"
                client.sendall(WAYS[way](0) + _command(b"PING"))
                while answers.readline() != b"+PONG\r\n":
                    pass
            stock.process.send_signal(signal.SIGSTOP)
            monkeypatch.setattr(SharedUpstream, "send", watched)
            monkeypatch.setattr(SharedUpstream, "send_all", watched_all)
            for first in range(0, _COUNT, together):
                client.sendall(b"".join(WAYS[way](n) for n in range(first, first + together)))
                threading.Event().wait(0.0002 * together)  # so that each piece comes by itself
            stock.process.send_signal(signal.SIGCONT)
            client.sendall(_command(b"ECHO", b"the end"))
            while answers.readline() != b"the end\r\n":
                pass
    finally:
        stock.process.send_signal(signal.SIGCONT)
        server.stop()
    assert 1 <= most[0] <= _LIMIT
