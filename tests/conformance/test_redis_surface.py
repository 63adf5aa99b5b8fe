"""docs/redis-compatibility.toml: it names the commands that Redis lists, and its calls have Redis's own replies."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import BinaryIO

import pytest
import redis

from redisai_py.commands import COMMANDS
from tests.conformance.conversation import talk
from tests.conformance.transcript import read_reply
from tests.support import FrontDoor, RedisServer, raw_socket

TABLE = tomllib.loads((Path(__file__).parents[2] / "docs" / "redis-compatibility.toml").read_text())
CALLS: dict[str, list[str]] = (
    TABLE["identical"] | TABLE["newer"] | {name: row["calls"] for name, row in TABLE["amended"].items()}
)


def test_the_table_names_the_commands_of_redis(bare: redis.Redis) -> None:
    with talk(bare.connection_pool.connection_kwargs["port"]) as client:
        listed = client.ask("COMMAND LIST")
        if listed.startswith("-"):  # Redis 6.2: no COMMAND LIST, and subcommands are not commands
            names = set(re.findall(r'\["([^"]+)", :-?\d+, \[', client.ask("COMMAND")))
            assert names <= CALLS.keys()
            return
    names = {name.lower() for name in re.findall(r'"([^"]+)"', listed)}
    assert CALLS.keys() - TABLE["newer"].keys() - names == {"stralgo", "post", "host:", "quit"} - names
    assert names - CALLS.keys() == set()


def test_no_command_is_in_two_places() -> None:
    assert not TABLE["identical"].keys() & TABLE["amended"].keys()
    assert not TABLE["newer"].keys() & (TABLE["identical"].keys() | TABLE["amended"].keys())
    assert set(TABLE["refused"]["commands"]) <= CALLS.keys()


def _ask(connection: BinaryIO, call: str) -> str:
    words = [word.encode() for word in shlex.split(call.removeprefix("~"))]
    connection.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
    connection.flush()
    reply = read_reply(connection, {})
    return re.sub(r"\w+", "w", reply) if call.startswith("~") else reply


def test_what_is_refused_inside_multi(front_door: FrontDoor, bare: redis.Redis) -> None:
    for name in TABLE["refused"]["commands"]:
        with talk(front_door.port) as client:
            client.given("MULTI", "SET a 1")
            assert client.ask(f"{name} x") == f"-ERR {name.upper()} is not supported inside MULTI by redisai_py"
            assert client.ask("EXEC") == "-EXECABORT Transaction discarded because of previous errors."
            assert client.ask("EXISTS a") == ":0"
            assert client.ask("AI.TENSORSET t FLOAT 1 VALUES 1") == "+OK"


def test_what_is_added(front_door: FrontDoor, bare: redis.Redis) -> None:
    port = bare.connection_pool.connection_kwargs["port"]
    with talk(front_door.port) as client, talk(port) as other:
        ours, theirs = (int(speaker.ask("COMMAND COUNT")[1:]) for speaker in (client, other))
        assert ours == theirs + len(COMMANDS)
        everything = client.ask("COMMAND")
        assert everything.startswith(other.ask("COMMAND")[:1000])
        listed = client.ask("COMMAND LIST FILTERBY MODULE ai")
        for name in COMMANDS:
            assert f'["{name.decode().lower()}", :-1' in everything
            assert listed.startswith("-") or f'"{name.decode().lower()}"' in listed
        assert client.ask("MODULE LIST").count('"name"') == other.ask("MODULE LIST").count('"name"') + 1
        documented = client.ask("COMMAND DOCS ai.tensorset get")
        assert documented.startswith("-") or ('"ai.tensorset", ["summary"' in documented and '"get"' in documented)


def test_lists_of_the_client_show_who_is_who(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("CLIENT SETNAME me", "AI.TENSORSET t FLOAT 1 VALUES 1")
        names = {entry["name"] for entry in bare.client_list()}
    assert "me" in names
    assert any(name.startswith("redisai-") for name in names)


def _replies(port: int, protocol: int, calls: list[str]) -> list[str]:
    with raw_socket(port) as socket, socket.makefile("rwb") as connection:
        _ask(connection, f"HELLO {protocol}")
        return [_ask(connection, call) for call in calls]  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", [name for name, calls in CALLS.items() if calls])
def test_replies_are_those_of_redis(
    name: str, protocol: int, front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis
) -> None:
    expected = _replies(redis_server.port, protocol, CALLS[name])
    bare.flushall()
    assert _replies(front_door.port, protocol, CALLS[name]) == expected
