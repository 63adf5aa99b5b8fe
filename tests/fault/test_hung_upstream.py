"""A Redis that hangs: who waits for it is closed in time, who rightly waits for long is not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries
from tests.wire import Wire

TIMEOUT_MS = 1000
SET = ("AI.TENSORSET", "t", "FLOAT", "1", "VALUES", "1")


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be stopped."""
    server = RedisServer(next(iter(redis_binaries().values())), tmp_path)
    yield server
    server.stop()


@pytest.fixture
def door(stock: RedisServer) -> Iterator[FrontDoor]:
    """A front door that waits a second for a PING."""
    config = Config(redis=stock.url, port=0, drain_timeout_s=1, upstream_timeout_ms=TIMEOUT_MS, upstream_retry_ms=500)
    server = FrontDoor(config)
    yield server
    server.stop()


@contextlib.contextmanager
def stopped(stock: RedisServer) -> Iterator[None]:
    """Redis's process stands still meanwhile."""
    assert stock.process is not None
    os.kill(stock.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(stock.process.pid, signal.SIGCONT)


def test_who_waits_for_a_hung_redis_is_closed(
    stock: RedisServer, door: FrontDoor, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = (("BLPOP", "q", "0"), ("GET", "a"), SET, ("AI.TENSORGET", "t"), ("SUBSCRIBE", "c"))
    with contextlib.ExitStack() as clients:
        old = [clients.enter_context(Wire(door.port)) for _ in commands]
        for wire in old:
            assert wire("PING") == b"PONG"
            assert wire(*SET) == b"OK"
        new = [clients.enter_context(Wire(door.port)) for _ in commands]
        with stopped(stock):
            for wires in (old, new):
                for wire, command in zip(wires, commands, strict=True):
                    wire.send(*command)
            for wire in (*old, *new):
                with pytest.raises(ConnectionError):
                    wire.receive()
            # What comes now is told, too: it is known that Redis hangs.
            with Wire(door.port) as late, pytest.raises(ConnectionError):
                late("GET", "a")
        with Wire(door.port) as after:
            assert _eventually(after) == b"OK"
            assert after("GET", "a") is None
    logged = "".join(capfd.readouterr())
    assert logged.count("Redis hangs; closing all connections to it") == 1
    assert "Redis answers again" in logged


def _eventually(wire: Wire) -> object:
    return wire(*SET)


@pytest.mark.parametrize("command", [("BLPOP", "q", "0"), ("XREAD", "BLOCK", "0", "STREAMS", "s", "$")])
def test_blocking_commands_wait(stock: RedisServer, door: FrontDoor, command: tuple[str, ...]) -> None:
    with Wire(door.port) as waiting, redis.Redis(port=stock.port) as bare:
        waiting.send(*command)
        threading.Event().wait(4 * TIMEOUT_MS / 1000)
        bare.rpush("q", "job")
        bare.xadd("s", {"f": "v"})
        assert b"job" in waiting.receive() or command[0] == "XREAD"


def test_long_scripts_run_on(stock: RedisServer, door: FrontDoor) -> None:
    """Redis says that it is busy, which is an answer."""
    script = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until n[1] - t[1] > 3 return 'done'"
    with Wire(door.port) as wire:
        assert wire("CONFIG", "SET", "lua-time-limit", "100") == b"OK"
        assert wire("EVAL", script, "0") == b"done"
