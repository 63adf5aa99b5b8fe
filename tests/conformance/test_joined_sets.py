"""Single AI.TENSORSETs of many clients that come together: written by one call, and each answered as if alone."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import pytest
import redis

from tests.rows import WRONGTYPE, rows
from tests.runtime.serving import eventually
from tests.support import FrontDoor
from tests.wire import Wire, numbers

CLIENTS = 8  # their keys here are all of one length, and so their commands of one template


@pytest.fixture
def wires(front_door: FrontDoor, bare: redis.Redis) -> Iterator[list[Wire]]:
    """Clients whose commands have a template that the server knows, and that lately came together."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Wire(front_door.port)) for _ in range(CLIENTS)]
        for client in clients:
            for number in range(3):
                assert client(*rows(["warm00"], number)[0]) == b"OK"
        for number in range(70):  # after a refusal, commands go singly for a while
            assert clients[0](*rows(["warm00"], number)[0]) == b"OK"
        # Who was alone lately does not wait for others, so the first that come together may not go together yet.
        assert _together(front_door, clients, ["warm00"] * CLIENTS, 0) == [b"OK"] * CLIENTS
        yield clients


def _calls(bare: redis.Redis) -> int:
    return int(bare.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def _send(wires: list[Wire], keys: list[str], number: float) -> None:
    for wire, key in zip(wires, keys, strict=True):
        wire.send(*rows([key], number)[0])


def _together(front_door: FrontDoor, wires: list[Wire], keys: list[str], number: float) -> list[object]:
    with front_door.held():
        _send(wires, keys, number)
    return [wire.receive() for wire in wires]


def test_what_comes_together_is_one_call(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    before = _calls(bare)
    keys = [f"key{n % 6}-{n % 6}" for n in range(CLIENTS)]  # two of them twice
    assert _together(front_door, wires, keys, 7) == [b"OK"] * CLIENTS
    assert _calls(bare) == before + 1
    assert {tuple(numbers(bare.get(key)) or ()) for key in keys} == {(7.0, 7.0)}
    assert wires[0]("AI.TENSORGET", keys[0], "VALUES") == [b"7", b"7"]


def test_a_key_of_another_kind_is_refused_alone(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    bare.hset("other3", "field", "value")
    keys = [f"other{n}" for n in range(CLIENTS)]
    replies = _together(front_door, wires, keys, 1)
    assert [str(reply) for reply in replies] == [WRONGTYPE if n == 3 else "b'OK'" for n in range(CLIENTS)]
    assert bare.hgetall("other3") == {b"field": b"value"}
    assert all(numbers(bare.get(key)) == [1.0, 1.0] for key in keys if key != "other3")


def test_a_user_writes_where_he_may(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    bare.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "~mine*", "~warm00")
    try:
        for wire in wires:
            assert wire("AUTH", "limited", "pw") == b"OK"
            assert wire(*rows(["warm00"], 0)[0]) == b"OK"
        keys = [f"mine0{n}" if n % 2 else f"your0{n}" for n in range(CLIENTS)]
        replies = _together(front_door, wires, keys, 1)
        for key, reply in zip(keys, replies, strict=True):
            assert (reply == b"OK") == key.startswith("mine"), reply
            assert (bare.get(key) is not None) == key.startswith("mine")
    finally:
        bare.execute_command("ACL", "DELUSER", "limited")


def test_a_script_that_redis_forgot(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    bare.script_flush()
    assert _together(front_door, wires, [f"key00{n}" for n in range(CLIENTS)], 3) == [b"OK"] * CLIENTS


def test_a_lost_connection(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    bare.execute_command("CLIENT", "PAUSE", "20000", "WRITE")
    keys = [f"key00{n}" for n in range(CLIENTS)]
    with front_door.held():
        _send(wires, keys, 1)
    eventually(lambda: bare.info("clients")["blocked_clients"] == 1)  # Redis has what they sent, and holds it back
    bare.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    bare.execute_command("CLIENT", "UNPAUSE")
    for wire in wires:  # nobody knows whether it was applied
        with pytest.raises(ConnectionError):
            wire.receive()


def test_what_a_client_sends_behind_waits_for_it(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    keys = [f"own00{n}" for n in range(CLIENTS)]

    def send_behind(number: float) -> None:
        for wire, key in zip(wires, keys, strict=True):
            wire.send("AI.TENSORGET", key, "VALUES")
            wire.send("GET", key)
            wire.send(*rows([key], -number)[0])
            wire.send("AI.TENSORGET", key, "VALUES")

    for number in range(20):
        with front_door.held():
            _send(wires, keys, number)
            if number % 2:  # is read together with it
                send_behind(number)
        if not number % 2:
            send_behind(number)
        for wire in wires:
            ok, got, plain, again, last = [wire.receive() for _ in range(5)]
            assert (ok, again) == (b"OK", b"OK")
            assert [float(word) for word in got] == [number] * 2 == numbers(plain)
            assert [float(word) for word in last] == [-number] * 2


def test_many_clients_at_random(front_door: FrontDoor, wires: list[Wire], bare: redis.Redis) -> None:
    """Foreign keys among them, which must survive; everything acknowledged is there."""
    for n in range(4):
        bare.set(f"any00{n}", "foreign")
    failures: list[object] = []

    def work(number: int, wire: Wire) -> None:
        random_ = random.Random(number)
        for turn in range(150):
            key = f"any00{random_.randrange(4)}" if random_.random() < 0.02 else f"c{number}---{random_.randrange(3)}"
            reply = wire(*rows([key], turn)[0])
            if key.startswith("any"):
                if str(reply) != WRONGTYPE:
                    failures.append((key, reply))
            elif reply != b"OK" or wire("AI.TENSORGET", key, "VALUES") != [str(turn).encode()] * 2:
                failures.append((key, reply))

    threads = [threading.Thread(target=work, args=item) for item in enumerate(wires)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [bare.get(f"any00{n}") for n in range(4)] == [b"foreign"] * 4
