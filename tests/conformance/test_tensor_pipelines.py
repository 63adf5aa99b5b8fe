"""Pipelines of AI.TENSORSET, which are written together: whatever is in them, each command is answered as if alone."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import threading
from collections.abc import Iterator

import hiredis
import pytest
import redis

from scripts import make_models
from tests.rows import WRONGTYPE, group_writes, rows, warm
from tests.support import FrontDoor
from tests.wire import Wire, numbers, value

KEYS = [f"k{n}" for n in range(16)]  # ten of one length and six of another
OK = [b"OK"] * 16


@pytest.fixture
def wire(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client whose pipelines are written together."""
    with Wire(front_door.port) as client:
        warm(client, bare)
        yield client


def foreign(name: str, metadata: dict[str, str] | None = None) -> bytes:
    """A tensor that another program has written."""
    entries = {name: {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}
    header = json.dumps({"__metadata__": metadata, **entries} if metadata else entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def held(bare: redis.Redis, key: str) -> list[float] | None:
    return numbers(bare.get(key))  # type: ignore[arg-type]  # redis-py's types admit of an awaitable


def test_what_follows_sees_what_was_written(wire: Wire, bare: redis.Redis) -> None:
    before = group_writes(bare)
    for number in range(1, 6):
        replies = wire.pipeline(
            [
                *rows(KEYS, number), ("AI.TENSORGET", "k3", "BLOB"), ("GET", "k4"), ("SET", "plain", str(number)),
                *rows(KEYS, -number), ("MULTI",), *rows(["k5"] * 9, number), ("GET", "k6"), ("EXEC",),
                ("GET", "plain"), *rows(KEYS[:9], 0.5), ("AI.TENSORGET", "k8", "VALUES"), ("PING",),
            ]
        )  # fmt: skip
        blob = value(number)[128:]
        assert replies[:35] == [*OK, blob, value(number), b"OK", *OK]
        assert replies[35:46] == [b"OK", *[b"QUEUED"] * 10]
        assert replies[46] == [*[b"OK"] * 9, value(-number)]
        assert replies[47:] == [str(number).encode(), *[b"OK"] * 9, [b"0.5", b"0.5"], b"PONG"]
    assert group_writes(bare) >= before + 5


@pytest.mark.parametrize("at", [0, 7, 15])
@pytest.mark.parametrize("kind", ["hash", "string", "empty", "list", "long", "two tensors"])
def test_a_key_that_holds_something_else(wire: Wire, bare: redis.Redis, kind: str, at: int) -> None:
    assert wire.pipeline(rows(KEYS, 1)) == OK
    key = KEYS[at]
    bare.delete(key)
    if kind == "hash":
        bare.hset(key, "field", "x")
    elif kind == "list":
        bare.rpush(key, "x")
    else:
        entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        both = json.dumps({"a": entry, "b": entry}).encode()
        texts = {"string": b"x", "empty": b"", "long": b"x" * 2000, "two tensors": struct.pack("<Q", len(both)) + both}
        bare.set(key, texts[kind])
    before = bare.dump(key)
    for number in (2, 3):
        replies = wire.pipeline(rows(KEYS, number))
        assert [str(reply) for reply in replies if reply != b"OK"] == [WRONGTYPE]
        assert str(replies[at]) == WRONGTYPE
        assert bare.dump(key) == before
        assert [held(bare, other) for other in KEYS if other != key] == [[number] * 2] * 15


@pytest.mark.parametrize("metadata", [None, {"made by": "another program " * 10}], ids=["short", "long"])
def test_tensors_of_others_are_overwritten(wire: Wire, bare: redis.Redis, metadata: dict[str, str] | None) -> None:
    for _ in range(2):
        assert wire.pipeline(rows(KEYS, 1)) == OK
        bare.set("k3", foreign("theirs", metadata))
        before = group_writes(bare)
        assert wire.pipeline(rows(KEYS[:10], 2)) == OK[:10]
        assert (group_writes(bare) > before) == (metadata is None)
        assert [held(bare, key) for key in KEYS[:10]] == [[2, 2]] * 10


def test_keys_that_do_not_exist(wire: Wire, bare: redis.Redis) -> None:
    before = group_writes(bare)
    for number in range(1, 5):
        bare.delete(*KEYS) if number % 2 else bare.delete("k3", "k9")
        assert wire.pipeline(rows(KEYS, number)) == OK
        assert [held(bare, key) for key in KEYS] == [[number] * 2] * 16
    assert group_writes(bare) >= before + 4


def test_expiry_is_forgotten_as_by_set(wire: Wire, bare: redis.Redis) -> None:
    assert wire.pipeline(rows(KEYS, 1)) == OK
    for key in KEYS:
        bare.expire(key, 100)
    assert wire.pipeline(rows(KEYS, 2)) == OK
    assert {bare.ttl(key) for key in KEYS} == {-1}


def test_the_last_of_two_wins(wire: Wire, bare: redis.Redis) -> None:
    commands = [command for number in range(20) for command in rows(["k1", "k2"], number)]
    assert wire.pipeline(commands) == [b"OK"] * 40
    assert held(bare, "k1") == held(bare, "k2") == [19, 19]


def test_keys_and_sizes_of_all_kinds(wire: Wire, bare: redis.Redis) -> None:
    wanted: dict[str, bytes] = {}
    commands = []
    for n in range(400):
        size = random.choice((8, 8, 8, 400, 30_000)) if n % 50 == 0 else 8
        key = "x" * random.choice((1, 3, 12)) + str(n % 30) if n % 40 > 20 else f"same{n % 10}"
        data = random.randbytes(size)
        commands.append(("AI.TENSORSET", key, "UINT8", str(size), "BLOB", data))
        wanted[key] = data
    for _ in range(2):
        assert wire.pipeline(commands) == [b"OK"] * 400
        for key, data in wanted.items():
            assert wire("AI.TENSORGET", key, "BLOB") == data


def test_many_at_once_in_pieces_of_any_size(wire: Wire, front_door: FrontDoor, bare: redis.Redis) -> None:
    keys = [f"key:{n:06d}" for n in range(300)]
    commands = [("AI.TENSORSET", key, "UINT8", "1024", "BLOB", key.encode().ljust(1024)) for key in keys]
    stream = b"".join(map(hiredis.pack_command, commands))
    with Wire(front_door.port) as other:
        for _ in range(3):
            bare.flushall()
            position = 0
            while position < len(stream):
                size = random.choice((1, 1000, 5000, 70_000))
                wire.socket.sendall(stream[position : position + size])
                other.socket.sendall(stream[position : position + size])
                position += size
            for client in (wire, other):
                assert [client.receive() for _ in keys] == [b"OK"] * 300
            assert all(str(bare.getrange(key, 128, -1)).rstrip("' ").endswith(key) for key in keys)


@pytest.mark.parametrize("word", ["BLOB", "blob"])
def test_data_that_look_like_commands(wire: Wire, bare: redis.Redis, word: str) -> None:
    """They are data, however often the command was seen and wherever its bytes are cut."""
    data = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n"
    size = str(len(data))
    frame = hiredis.pack_command(("AI.TENSORSET", "BLOB", "UINT8", size, word, data))
    bare.set("k", "foreign")
    for cut in (0, 0, len(frame) - len(data) - 2, len(frame) - 2):
        wire.socket.sendall(frame[:cut])
        threading.Event().wait(0.01)
        wire.socket.sendall(frame[cut:])
        assert wire.receive() == b"OK"
        assert wire.pipeline([("AI.TENSORSET", "BLOB", "UINT8", size, word, data)] * 3) == OK[:3]
        assert wire("AI.TENSORGET", "BLOB", "BLOB") == data
    assert bare.get("k") == b"foreign"


def test_one_at_a_time_in_another_database(wire: Wire) -> None:
    """A command of a known form comes alone, and first has to go another way than those before it."""
    (command,) = rows(["k1"], 1)
    for database in ("1", "0", "2", "0"):
        assert [wire(*command) for _ in range(3)] == OK[:3]
        assert wire("SELECT", database) == b"OK"
        assert wire(*command) == b"OK"
        assert [numbers(wire("GET", "k1"))] == [[1, 1]]


def test_client_reply(wire: Wire, bare: redis.Redis) -> None:
    wire.socket.sendall(b"CLIENT REPLY OFF\r\n")
    for command in rows(KEYS, 1):
        wire.send(*command)
    assert wire("CLIENT", "REPLY", "ON") == b"OK"
    wire.socket.sendall(b"CLIENT REPLY OFF\r\n")
    for number in (2, 3):
        for command in rows(KEYS, number):
            wire.send(*command)
    assert wire.pipeline([("CLIENT", "REPLY", "ON"), *rows(KEYS, 4)]) == [b"OK", *OK]
    assert [held(bare, key) for key in KEYS] == [[4, 4]] * 16
    bare.set("k2", "foreign")
    wire.send("CLIENT", "REPLY", "SKIP")  # the reply of the next command, and no other
    for command in rows(KEYS, 5):
        wire.send(*command)
    assert [str(wire.receive()) for _ in KEYS[1:]] == ["b'OK'", WRONGTYPE, *["b'OK'"] * 13]
    wire.send("CLIENT", "REPLY", "SKIP")
    wire.socket.sendall(b"".join(map(hiredis.pack_command, rows(KEYS, 6))))
    assert [str(wire.receive()) for _ in KEYS[1:]] == ["b'OK'", WRONGTYPE, *["b'OK'"] * 13]
    assert wire("PING") == b"PONG"


def test_in_a_transaction(wire: Wire, bare: redis.Redis) -> None:
    assert wire.pipeline([("MULTI",), *rows(KEYS, 1), ("EXEC",)]) == [b"OK", *[b"QUEUED"] * 16, OK]
    assert wire("MULTI") == b"OK"
    assert wire.pipeline(rows(KEYS, 2)) == [b"QUEUED"] * 16
    assert held(bare, "k1") == [1, 1]
    assert wire("EXEC") == OK
    assert held(bare, "k1") == [2, 2]


def test_of_a_subscriber(wire: Wire) -> None:
    assert wire("SUBSCRIBE", "channel") == [b"subscribe", b"channel", 1]
    replies = wire.pipeline(rows(KEYS, 1))
    assert len(replies) == 16
    assert all(str(reply).startswith("ERR Can't execute 'ai.tensorset'") for reply in replies)
    assert wire("UNSUBSCRIBE") == [b"unsubscribe", b"channel", 0]
    assert wire.pipeline(rows(KEYS, 1)) == OK


def test_runs_use_what_was_written(wire: Wire) -> None:
    wire("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul())
    for number in range(1, 8):
        replies = wire.pipeline(
            [*rows(KEYS, number), ("AI.MODELEXECUTE", "m", "INPUTS", "1", "k7", "OUTPUTS", "1", "out")]
        )
        assert replies == [*OK, b"OK"]
        assert [float(n) for n in wire("AI.TENSORGET", "out", "VALUES")] == [number * 2] * 2


def test_no_script_is_needed(wire: Wire, bare: redis.Redis) -> None:
    for number in range(3):  # until the server knows both forms of these commands
        assert wire.pipeline(rows(KEYS, number)) == OK
    for number in range(3):
        bare.script_flush()
        assert wire.pipeline(rows(KEYS, number)) == OK


def test_no_memory(wire: Wire, bare: redis.Redis) -> None:
    assert wire.pipeline(rows(KEYS, 1)) == OK
    bare.config_set("maxmemory", "1")
    try:
        for _ in range(2):
            replies = wire.pipeline([*rows(KEYS, 2), ("AI.TENSORGET", "k1", "VALUES")])
            assert all(str(reply).startswith("OOM command not allowed") for reply in replies[:-1])
            assert replies[-1] == [b"1", b"1"]
    finally:
        bare.config_set("maxmemory", "0")
    assert wire.pipeline(rows(KEYS, 3)) == OK
    assert [held(bare, key) for key in KEYS] == [[3, 3]] * 16


@contextlib.contextmanager
def user(front_door: FrontDoor, bare: redis.Redis, *rules: str) -> Iterator[Wire]:
    """A client that may do what the rules say."""
    bare.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", *rules)
    try:
        with Wire(front_door.port) as client:
            assert client("AUTH", "u", "p") == b"OK"
            yield client
    finally:
        bare.execute_command("ACL", "DELUSER", "u")


@pytest.mark.parametrize("missing", ["watch", "mset", "multi", "exec", "discard", "exists"])
def test_a_user_without_the_rights(front_door: FrontDoor, bare: redis.Redis, missing: str) -> None:
    with user(front_door, bare, "~*", "+@all") as client:
        warm(client, bare)
        assert client.pipeline(rows(KEYS, 1)) == OK
        bare.execute_command("ACL", "SETUSER", "u", f"-{missing}")
        bare.hset("foreign", "field", "x")
        for number in range(2, 8):
            replies = client.pipeline(rows([*KEYS, "foreign"], number))
            assert replies[:-1] == OK
            assert str(replies[-1]) == WRONGTYPE
            assert client.pipeline(rows(KEYS, -number)) == OK
            assert [held(bare, key) for key in KEYS] == [[-number] * 2] * 16
        bare.delete("foreign")


def test_a_user_without_rights_pays_once(front_door: FrontDoor, bare: redis.Redis) -> None:
    with user(front_door, bare, "~*", "+@all", "-watch") as client:
        for _ in range(50):
            assert client.pipeline(rows(KEYS, 1)) == OK
        refused = bare.info("commandstats")["cmdstat_watch"]["rejected_calls"]
        for _ in range(20):
            assert client.pipeline(rows(KEYS, 1)) == OK
        assert bare.info("commandstats")["cmdstat_watch"]["rejected_calls"] <= refused + 1


def test_a_user_without_some_keys(front_door: FrontDoor, bare: redis.Redis) -> None:
    with user(front_door, bare, "~k*", "+@all") as client:
        warm(client, bare)
        for number in range(1, 4):
            replies = client.pipeline(rows([*KEYS[:8], "other", *KEYS[8:]], number))
            assert [reply for reply in replies if reply == b"OK"] == OK
            assert "permission" in str(replies[8]).lower() or "NOPERM" in str(replies[8])
            assert bare.exists("other") == 0
            assert [held(bare, key) for key in KEYS] == [[number] * 2] * 16


def test_a_user_without_scripts(front_door: FrontDoor, bare: redis.Redis) -> None:
    with user(front_door, bare, "~*", "+@all", "-@scripting") as client:
        warm(client, bare)
        bare.set("k4", "foreign")
        replies = client.pipeline(rows(KEYS, 1))
        assert [n for n, reply in enumerate(replies) if reply != b"OK"] == [4]
        assert bare.get("k4") == b"foreign"


def test_the_rights_that_it_takes(front_door: FrontDoor, bare: redis.Redis) -> None:
    """Those that the page on security names, without the ones for other ways to write."""
    rights = ("+set", "+getrange", "+exists", "+watch", "+multi", "+exec", "+mset", "+discard", "+type")
    with user(front_door, bare, "~k*", *rights) as client:
        warm(client, bare)
        bare.hset("k4", "field", "x")
        for number in range(3):
            before = group_writes(bare)
            replies = client.pipeline(rows(KEYS, number))
            assert [str(reply) for reply in replies if reply != b"OK"] == [WRONGTYPE]
            assert client.pipeline(rows(["k5"] * 16, number)) == OK
            assert group_writes(bare) > before
