"""Tensors that are written together, and what may happen between looking at the keys and writing them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import hiredis
import pytest
import redis

from redisai_py.config import Config
from tests.proxy import Proxy
from tests.rows import WRONGTYPE, group_writes, rows, warm
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire, numbers, value

KEYS = [f"k{n}" for n in range(10)]
OK = [b"OK"] * 10
SETS = b"redisai-sets"
"""The name of the connection on which they are written."""


@pytest.fixture
def proxy(redis_server: RedisServer, bare: redis.Redis) -> Iterator[Proxy]:
    """Between the front door of `door` and Redis."""
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def door(proxy: Proxy) -> Iterator[FrontDoor]:
    """A front door behind the proxy."""
    server = FrontDoor(Config(redis=f"redis://127.0.0.1:{proxy.port}", port=0, drain_timeout_s=2))
    yield server
    server.stop()


@pytest.fixture
def wire(door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client of it whose pipelines are written together."""
    with Wire(door.port) as client:
        warm(client, bare)
        assert client.pipeline(rows(KEYS, 1)) == OK
        yield client


def _send(client: Wire, number: float) -> None:
    client.socket.sendall(b"".join(map(hiredis.pack_command, rows(KEYS, number))))


def _asked(proxy: Proxy) -> None:
    assert proxy.asked.acquire(timeout=20), "nothing was sent to Redis"


def _kill(bare: redis.Redis) -> None:
    for client in bare.client_list():
        if client["name"] == SETS.decode():
            bare.client_kill_filter(_id=client["id"])


def _held(bare: redis.Redis) -> list[list[float] | None]:
    return [numbers(raw) for raw in bare.mget(KEYS)]  # type: ignore[union-attr]  # redis-py's types admit of an awaitable


def test_a_key_becomes_something_else_after_the_look(wire: Wire, proxy: Proxy, bare: redis.Redis) -> None:
    proxy.hold(SETS)
    _send(wire, 2)
    _asked(proxy)
    bare.set("k3", "foreign")
    proxy.release()
    replies = [wire.receive() for _ in KEYS]
    assert [str(reply) for reply in replies if reply != b"OK"] == [WRONGTYPE]
    assert bare.get("k3") == b"foreign"
    bare.set("k3", value(2))
    assert _held(bare) == [[2, 2]] * 10


@pytest.mark.parametrize("how", ["written", "deleted", "expired"])
def test_a_key_changes_after_the_look(wire: Wire, proxy: Proxy, bare: redis.Redis, how: str) -> None:
    before = group_writes(bare)
    proxy.hold(SETS)
    _send(wire, 2)
    _asked(proxy)
    if how == "written":
        bare.set("k3", value(9))
    elif how == "deleted":
        bare.delete("k3")
    else:
        bare.pexpire("k3", 1)
        threading.Event().wait(0.05)
    proxy.release()
    assert [wire.receive() for _ in KEYS] == OK
    assert _held(bare) == [[2, 2]] * 10
    assert group_writes(bare) > before


def test_a_key_that_always_changes(wire: Wire, door: FrontDoor, bare: redis.Redis) -> None:
    """Whoever is always too late gives up and writes singly."""
    stop = threading.Event()

    def change() -> None:
        with Wire(bare.connection_pool.connection_kwargs["port"]) as client:
            while not stop.is_set():
                assert client.pipeline([("SET", "k3", value(9))] * 200) == [b"OK"] * 200

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for number in range(2, 100):
            assert wire.pipeline(rows(KEYS, number)) == OK
    finally:
        stop.set()
        changer.join()
    assert wire.pipeline(rows(KEYS, 100)) == OK
    assert _held(bare) == [[100, 100]] * 10


def test_lost_before_anything_was_written(wire: Wire, door: FrontDoor, proxy: Proxy, bare: redis.Redis) -> None:
    """Then nobody need be told."""
    proxy.hold(SETS)
    _send(wire, 2)
    _asked(proxy)
    _kill(bare)
    proxy.release()
    # What Redis had answered may have come before the end, and then it had been asked to write: which nobody can know.
    with contextlib.suppress(ConnectionError):
        assert [wire.receive() for _ in KEYS] == OK
    with Wire(door.port) as again:
        warm(again, bare)
        assert again.pipeline(rows(KEYS, 3)) == OK
    assert _held(bare) == [[3, 3]] * 10


def test_lost_while_it_was_written(wire: Wire, door: FrontDoor, bare: redis.Redis) -> None:
    bare.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
    try:
        _send(wire, 2)
        for _ in range(1000):
            clients = [client for client in bare.client_list() if client["name"] == SETS.decode()]
            if any(client["cmd"] in ("mset", "exec") and client["multi"] != "-1" for client in clients):
                break
            threading.Event().wait(0.005)
        else:
            pytest.fail("it is not written")
        _kill(bare)
        with pytest.raises(ConnectionError):
            wire.receive()
    finally:
        bare.execute_command("CLIENT", "UNPAUSE")
    with Wire(door.port) as again:
        warm(again, bare)
        assert again.pipeline(rows(KEYS, 3)) == OK


@pytest.mark.parametrize("last", [True, False], ids=["the only one", "one of two"])
def test_a_client_leaves(wire: Wire, door: FrontDoor, proxy: Proxy, bare: redis.Redis, last: bool) -> None:
    """What was received is carried out, and the other members are answered."""
    with Wire(door.port) as leaving:
        assert leaving.pipeline(rows(KEYS, 1)) == OK
        if last:
            wire.close()
        proxy.hold(SETS)
        _send(leaving, 2)
        _asked(proxy)
        if not last:
            _send(wire, 3)
    proxy.release()
    if last:
        for _ in range(2000):
            if _held(bare) == [[2, 2]] * 10:
                return
            threading.Event().wait(0.01)
        pytest.fail("it was not written")
    assert [wire.receive() for _ in KEYS] == OK
    assert wire.pipeline(rows(KEYS, 4)) == OK
    assert _held(bare) == [[4, 4]] * 10


def test_the_server_stops(proxy: Proxy, bare: redis.Redis) -> None:
    """What is under way is carried out and answered before."""
    door = FrontDoor(Config(redis=f"redis://127.0.0.1:{proxy.port}", port=0, drain_timeout_s=5))
    with Wire(door.port) as client:
        warm(client, bare)
        proxy.hold(SETS)
        _send(client, 2)
        _asked(proxy)
        stopping = threading.Thread(target=door.stop)
        stopping.start()
        proxy.release()
        assert [client.receive() for _ in KEYS] == OK
        stopping.join()
    assert _held(bare) == [[2, 2]] * 10


def test_many_clients_write_the_same_keys(door: FrontDoor, wire: Wire, bare: redis.Redis) -> None:
    def write(base: int) -> None:
        with Wire(door.port) as client:
            for number in range(60):
                assert client.pipeline(rows(KEYS, base + number)) == OK
                assert client.pipeline([("AI.TENSORGET", key, "META") for key in KEYS])[0][0] == b"dtype"

    before = group_writes(bare)
    threads = [threading.Thread(target=write, args=(1000 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = _held(bare)
    assert all(numbers == held[0] for numbers in held), "a group is written as a whole"
    assert group_writes(bare) > before
