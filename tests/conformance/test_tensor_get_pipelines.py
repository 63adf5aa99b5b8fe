"""Pipelines of AI.TENSORGET, which are read and answered together: each command is answered as if it came alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import hiredis
import numpy as np
import pytest
import redis

from tests.rows import WRONGTYPE
from tests.support import FrontDoor
from tests.wire import Wire

KEYS = [f"k{n}" for n in range(16)]  # ten of one length and six of another
ABSENT = "ERR tensor key is empty or in a different shard"


@pytest.fixture
def wire(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client whose pipelines are read together: the server has met commands like theirs."""
    with Wire(front_door.port) as client:
        for n, key in enumerate(KEYS):
            assert client("AI.TENSORSET", key, "FLOAT", 2, "BLOB", blob(n)) == b"OK"
        for options in (("BLOB",), ("META", "BLOB")):
            for _ in range(2):
                client.pipeline(gets(KEYS, *options))
        yield client


def blob(number: float) -> bytes:
    return np.array([number, number], np.float32).tobytes()


def gets(keys: list[str], *options: str) -> list[tuple[str, ...]]:
    return [("AI.TENSORGET", key, *options) for key in keys]


def texts(replies: list[Any]) -> list[Any]:
    return [str(reply) if isinstance(reply, Exception) else reply for reply in replies]


def get_commands(bare: redis.Redis) -> int:
    return int(bare.info("commandstats")["cmdstat_getrange"]["calls"])  # type: ignore[index]


def test_each_has_its_own_reply(wire: Wire, bare: redis.Redis) -> None:
    for keys in (KEYS, KEYS * 5, ["k3"] * 16, ["k3", "k4", "k12"] * 7):
        numbers = [int(key[1:]) for key in keys]
        before = get_commands(bare)
        assert wire.pipeline(gets(keys, "BLOB")) == [blob(n) for n in numbers]
        expected = [[b"dtype", b"FLOAT", b"shape", [2], b"blob", blob(n)] for n in numbers]
        assert wire.pipeline(gets(keys, "META", "BLOB")) == expected
        assert wire.pipeline(gets(keys)) == expected
        assert get_commands(bare) - before == 3 * len(keys)
    assert wire.pipeline(gets(["k1"], "BLOB")) == [blob(1)]


@pytest.mark.parametrize("at", [0, 7, 15])
def test_values_of_all_kinds_among_them(wire: Wire, bare: redis.Redis, at: int) -> None:
    key = KEYS[at]
    alone = [blob(n) for n in range(16)]
    large = np.arange(100_000, dtype=np.float32).tobytes()
    middle = large[:20_000]
    others: list[tuple[Any, Any]] = [
        (lambda: bare.set(key, "foreign"), WRONGTYPE),
        (lambda: bare.set(key, b""), WRONGTYPE),
        (lambda: bare.delete(key), ABSENT),
        (lambda: (bare.delete(key), bare.lpush(key, "x")), WRONGTYPE),
        (lambda: (bare.delete(key), wire("AI.TENSORSET", key, "FLOAT", 1, "BLOB", blob(at)[:4])), blob(at)[:4]),
        (lambda: wire("AI.TENSORSET", key, "INT32", 2, "BLOB", blob(at)), blob(at)),
        (lambda: wire("AI.TENSORSET", key, "STRING", 1, "BLOB", "seven\0"), b"seven\0"),
        (lambda: wire("AI.TENSORSET", key, "FLOAT", 5000, "BLOB", middle), middle),
        (lambda: wire("AI.TENSORSET", key, "FLOAT", 100_000, "BLOB", large), large),
    ]
    for make, expected in others:
        make()
        replies = texts(wire.pipeline(gets(KEYS, "BLOB")))
        assert replies == [*alone[:at], expected, *alone[at + 1 :]]
    assert wire("PING") == b"PONG"


def test_all_of_them_large_or_absent(wire: Wire, bare: redis.Redis) -> None:
    large = np.arange(30_000, dtype=np.float32).tobytes()
    for key in KEYS:
        wire("AI.TENSORSET", key, "FLOAT", 30_000, "BLOB", large)
    assert wire.pipeline([*gets(KEYS, "BLOB"), ("PING",)]) == [*[large] * 16, b"PONG"]
    bare.delete(*KEYS)
    assert texts(wire.pipeline(gets(KEYS, "BLOB"))) == [ABSENT] * 16


def test_order_among_other_commands(wire: Wire) -> None:
    for number in (20, 21, 22):
        words = [("AI.TENSORSET", key, "FLOAT", 2, "BLOB", blob(number)) for key in KEYS]
        replies = wire.pipeline(
            [
                *gets(KEYS, "BLOB"), *words, *gets(KEYS, "BLOB"), ("SET", "plain", str(number)),
                *gets(["k1"] * 5, "BLOB"),
                ("AI.TENSORGET", "k1", "VALUES"), ("AI.TENSORGET", "k1", "META"), ("GET", "plain"),
            ]
        )  # fmt: skip
        assert replies[16:48] == [*[b"OK"] * 16, *[blob(number)] * 16]
        assert replies[48:54] == [b"OK", *[blob(number)] * 5]
        assert replies[54:] == [[b"%d" % number] * 2, [b"dtype", b"FLOAT", b"shape", [2]], b"%d" % number]


def test_in_pieces_of_any_size(wire: Wire) -> None:
    rng = random.Random(1)
    data = b"".join(map(hiredis.pack_command, gets(KEYS * 20, "BLOB")))
    at = 0
    while at < len(data):
        size = rng.choice((1, 7, 40, 300, 2000))
        wire.socket.sendall(data[at : at + size])
        at += size
    assert [wire.receive() for _ in KEYS * 20] == [blob(n) for n in range(16)] * 20


def test_client_reply(wire: Wire) -> None:
    wire.send("CLIENT", "REPLY", "SKIP")
    wire.socket.sendall(b"".join(map(hiredis.pack_command, gets(KEYS, "BLOB"))))
    assert [wire.receive() for _ in KEYS[1:]] == [blob(n) for n in range(1, 16)]
    wire.socket.sendall(b"CLIENT REPLY OFF\r\n" + b"".join(map(hiredis.pack_command, gets(KEYS, "BLOB"))))
    assert wire("CLIENT", "REPLY", "ON") == b"OK"
    assert wire.pipeline(gets(KEYS, "BLOB"))[15] == blob(15)


def test_in_a_transaction_and_while_tracked(wire: Wire) -> None:
    expected = [blob(n) for n in range(16)]
    replies = wire.pipeline([("MULTI",), *gets(KEYS, "BLOB"), ("EXEC",)])
    assert replies == [b"OK", *[b"QUEUED"] * 16, expected]
    assert wire.pipeline([("HELLO", "3"), ("CLIENT", "TRACKING", "ON")])[1] == b"OK"
    assert wire.pipeline(gets(KEYS, "BLOB")) == expected


def test_a_user_without_the_right(wire: Wire, front_door: FrontDoor, bare: redis.Redis) -> None:
    bare.acl_setuser("reader", enabled=True, nopass=True, keys=["k1*"], commands=["+@all"])
    try:
        with Wire(front_door.port) as client:
            assert client("AUTH", "reader", "x") == b"OK"
            for _ in range(2):
                replies = texts(client.pipeline(gets(KEYS, "BLOB")))
                allowed = [n for n, reply in enumerate(replies) if isinstance(reply, bytes)]
                assert allowed == [1, *range(10, 16)]
                assert all("NOPERM" in replies[n] for n in range(16) if n not in allowed)
    finally:
        bare.acl_deluser("reader")
