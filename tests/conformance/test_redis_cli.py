"""redis-cli in front of the server, in each of its modes."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support import FrontDoor, has_redis_cli

pytestmark = pytest.mark.skipif(not has_redis_cli(), reason="redis-cli is not on PATH")

MODES = tomllib.loads((Path(__file__).parents[2] / "docs" / "redis-compatibility.toml").read_text())["redis-cli"]


def _run(port: int, *arguments: str, stdin: bytes = b"") -> str:
    command = ["redis-cli", "-p", str(port), *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=20, check=False)
    return (result.stdout + result.stderr).decode("latin-1")


@contextlib.contextmanager
def _terminal(port: int, *arguments: str) -> Iterator[int]:
    """redis-cli at a terminal, for what does not end by itself."""
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        ["redis-cli", "-p", str(port), *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb", "HOME": "/nonexistent"},
    )
    os.close(inner)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _until(terminal: int, expected: str) -> str:
    text = ""
    deadline = time.monotonic() + 20
    while expected not in text:
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"{expected!r} did not come; got {text!r}"
        text += os.read(terminal, 4096).decode("latin-1")
    return text


def test_every_mode_is_tested() -> None:
    source = Path(__file__).read_text()
    for mode in MODES:
        assert f'"{mode}"' in source or mode == "interactive", mode


def test_arguments(front_door: FrontDoor, bare: redis.Redis) -> None:
    assert _run(front_door.port, "AI.TENSORSET", "t", "FLOAT", "2", "VALUES", "1", "2") == "OK\n"
    assert _run(front_door.port, "AI.TENSORGET", "t", "VALUES") == "1\n2\n"
    assert "invalid data type" in _run(front_door.port, "AI.TENSORSET", "t", "NOPE", "1")
    assert _run(front_door.port, "-3", "AI.TENSORGET", "t", "VALUES") == "1\n2\n"


def test_last_argument_from_stdin(front_door: FrontDoor, bare: redis.Redis) -> None:
    assert _run(front_door.port, "-x", "AI.TENSORSET", "t", "UINT8", "3", "BLOB", stdin=b"\0\1\2") == "OK\n"
    assert bare.get("t").endswith(b"\0\1\2")  # type: ignore[union-attr]


def test_pipe(front_door: FrontDoor, bare: redis.Redis) -> None:
    commands = b"".join(
        b"*6\r\n$12\r\nAI.TENSORSET\r\n$%d\r\nt%d\r\n$5\r\nFLOAT\r\n$1\r\n1\r\n$6\r\nVALUES\r\n$1\r\n1\r\n"
        b"*3\r\n$3\r\nSET\r\n$%d\r\nk%d\r\n$1\r\nv\r\n" % (len(str(n)) + 1, n, len(str(n)) + 1, n)
        for n in range(500)
    )
    assert "errors: 0, replies: 1000" in _run(front_door.port, "--pipe", stdin=commands)
    assert bare.dbsize() == 1000


def test_scanning_modes(front_door: FrontDoor, bare: redis.Redis) -> None:
    bare.set("string", "x" * 100)
    bare.rpush("list", *range(10))
    assert sorted(_run(front_door.port, "--scan").split()) == ["list", "string"]
    assert _run(front_door.port, "--scan", "--pattern", "l*") == "list\n"
    assert "Biggest string found" in _run(front_door.port, "--bigkeys")
    assert "Sampled 2 keys in the keyspace" in _run(front_door.port, "--memkeys")
    bare.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        assert "Sampled 2 keys in the keyspace" in _run(front_door.port, "--hotkeys")
    finally:
        bare.config_set("maxmemory-policy", "noeviction")


def test_measuring_modes(front_door: FrontDoor, bare: redis.Redis) -> None:
    with _terminal(front_door.port, "--stat", "-i", "0.1") as terminal:
        _until(terminal, "(+")
    assert re.match(r"\d+ [\d.]+ [\d.]+ \d+", _run(front_door.port, "--raw", "--latency", "-i", "1"))


def test_eval(front_door: FrontDoor, bare: redis.Redis, tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text("return {KEYS[1], ARGV[1]}")
    assert _run(front_door.port, "--eval", str(script), "k", ",", "a") == "k\na\n"
    script.write_text("return redis.call('AI.TENSORGET', KEYS[1])")
    # Valkey: Unknown command
    assert re.search("Unknown (Redis )?command called", _run(front_door.port, "--eval", str(script), "k"))


def test_rdb(front_door: FrontDoor, bare: redis.Redis, tmp_path: Path) -> None:
    bare.config_set("repl-diskless-sync-delay", 0)
    bare.set("k", "a value that is in the dump")
    dump = tmp_path / "dump.rdb"
    assert "Transfer finished with success" in _run(front_door.port, "--rdb", str(dump))
    assert b"a value that is in the dump" in dump.read_bytes()


def test_functions_rdb(front_door: FrontDoor, bare: redis.Redis, tmp_path: Path) -> None:
    if int(bare.info("server")["redis_version"].split(".")[0]) < 7:
        pytest.skip("functions came with Redis 7")
    bare.config_set("repl-diskless-sync-delay", 0)
    dump = tmp_path / "functions.rdb"
    assert "Transfer finished with success" in _run(front_door.port, "--functions-rdb", str(dump))
    assert dump.read_bytes().startswith(b"REDIS")


def test_listening(front_door: FrontDoor, bare: redis.Redis) -> None:
    with _terminal(front_door.port, "MONITOR") as terminal:
        _until(terminal, "OK")
        bare.set("k", "v")
        _until(terminal, '"SET" "k" "v"')
    with _terminal(front_door.port, "SUBSCRIBE", "c") as terminal:
        _until(terminal, "(integer) 1")
        bare.publish("c", "hello")
        _until(terminal, '3) "hello"')


INTERACTIVE = (
    ("ai.tensorset t float 2 values 1 2", "OK"),
    ("AI.TENSORGET t VALUES", '2) "2"'),
    ("MULTI", "OK"),
    ("AI.TENSORGET t VALUES", "QUEUED"),
    ("EXEC", '1) 1) "1"'),
    ("SELECT 1", "[1]>"),
    ("AI.TENSORGET t", "tensor key is empty"),
    ("HELLO 3", '"proto" => (integer) 3'),
    ("SELECT 0", "OK"),
    ("AI.TENSORGET t VALUES", "2) (double) 2"),
    ("GET nosuch", "(nil)"),
    ("NOSUCH", "unknown command"),
)


def test_interactive(front_door: FrontDoor, bare: redis.Redis) -> None:
    """A person at a terminal: commands, a transaction, another database, RESP3, and the help."""
    with _terminal(front_door.port) as terminal:
        for line, expected in INTERACTIVE:
            os.write(terminal, line.encode() + b"\n")
            _until(terminal, expected)
        if int(bare.info("server")["redis_version"].split(".")[0]) >= 7:
            os.write(terminal, b"help ai.tensorset\n")
            _until(terminal, "Stores a tensor.")
