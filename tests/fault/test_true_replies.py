"""What a client is told of a write is what happened to the key, whatever is refused or lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
import redis

from redisai_py.config import MIN_CHUNK_SIZE, Config
from tests.proxy import Proxy
from tests.support import FrontDoor, long_model
from tests.wire import Wire, numbers, value

MODEL = long_model()
STORE_MODEL = ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", MODEL)
SMALL = ("AI.TENSORSET", "y", "UINT8", "1", "BLOB", b"\1")
LARGE = ("AI.TENSORSET", "y", "UINT8", "100000", "BLOB", b"\1" * 100_000)
STREAMED = ("AI.TENSORSET", "y", "UINT8", "2000000", "BLOB", b"\1" * 2_000_000)
DAG = ("AI.DAGEXECUTE", "LOAD", "1", "x", "PERSIST", "1", "y", "IFUNCHANGED")
TWO = ("AI.DAGEXECUTE", "PERSIST", "2", "y", "z", "|>", *SMALL, "|>", SMALL[0], "z", *SMALL[2:])
LOST = "ERR Redis dropped the staged value before it was published; nothing was stored"


@pytest.fixture(scope="module")
def door(proxy: Proxy) -> Iterator[FrontDoor]:
    """A front door behind the proxy, with models in several pieces."""
    config = Config(redis=proxy.url, port=0, drain_timeout_s=1, model_chunk_size=MIN_CHUNK_SIZE)
    server = FrontDoor(config)
    yield server
    server.stop()


@pytest.fixture
def client(door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client of the front door; `m` is a model, and `x` a tensor."""
    with Wire(door.port) as client:
        assert client(*STORE_MODEL) == b"OK"
        bare.set("x", value(3))
        yield client


def _as_user(client: Wire, bare: redis.Redis, rights: str) -> None:
    bare.acl_deluser("user")
    bare.execute_command("ACL SETUSER user on nopass ~*", *rights.split())
    assert client("AUTH", "user", "any") == b"OK"


@pytest.mark.parametrize("rights", ["+@all -multi", "+@all -multi -@scripting", "+@read +@write"])
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(LARGE, id="large"),
        pytest.param(STREAMED, id="streamed"),
        pytest.param((*DAG, "|>", *SMALL), id="ifunchanged"),
        pytest.param((*DAG, "|>", *LARGE), id="ifunchanged-large"),
        pytest.param(TWO, id="two"),
        pytest.param(("AI.MODELSTORE", "y", *STORE_MODEL[2:]), id="model"),
        pytest.param(("AI.MODELDEL", "m"), id="deleted"),
    ],
)
def test_who_may_not_use_transactions_writes_without_one_or_not_at_all(
    client: Wire, bare: redis.Redis, rights: str, command: tuple[Any, ...]
) -> None:
    _as_user(client, bare, rights)
    reply = client(*command)
    if isinstance(reply, hiredis.ReplyError):
        assert str(reply).startswith("NOPERM")
        assert bare.keys() in ([b"m", b"x"], [b"x", b"m"])
    elif command[0] == "AI.MODELDEL":
        assert not bare.exists("m")
    else:
        assert bare.exists("y")
    assert client(*SMALL[:1], "other", *SMALL[2:]) != b"QUEUED"


def test_a_dag_is_not_told_that_unwatch_was_refused(client: Wire, bare: redis.Redis) -> None:
    _as_user(client, bare, "+@all -unwatch")
    run = (*DAG, "|>", "AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
    assert client(*run) == [b"OK"]
    assert client(*SMALL[:1], "x", *SMALL[2:]) == b"OK"
    (failed,) = client(*run)  # it commits nothing
    assert isinstance(failed, hiredis.ReplyError)
    bare.set("x", value(4))
    assert client(*run) == [b"OK"]


def _drop_staged(bare: redis.Redis) -> None:
    staged = bare.keys("*:staging:*")
    assert staged
    bare.delete(*staged)


@pytest.mark.parametrize("before", ["EXPIRE", "HSET", "MULTI", "PERSIST"])
def test_a_model_that_redis_evicts_while_it_is_stored_is_not_published(
    client: Wire, proxy: Proxy, bare: redis.Redis, before: str
) -> None:
    old = bare.hgetall("m")
    if before in ("HSET", "MULTI"):  # the first ones are the rehearsal's
        proxy.before("EXPIRE", lambda: proxy.before(before, lambda: _drop_staged(bare)))
    else:
        proxy.before(before, lambda: _drop_staged(bare))
    assert str(client(*STORE_MODEL)) == LOST
    assert proxy.acted
    assert bare.hgetall("m") == old
    assert bare.keys("*:staging:*") == []


def test_a_tensor_that_redis_evicts_while_it_is_stored_is_not_acknowledged(
    client: Wire, proxy: Proxy, bare: redis.Redis
) -> None:
    bare.set("y", value(1))
    proxy.before("PERSIST", lambda: _drop_staged(bare))
    assert str(client(*STREAMED)) == LOST
    assert proxy.acted
    assert numbers(bare.get("y")) == [1, 1]  # type: ignore[arg-type]  # redis-py's types admit of an awaitable


def _cut_dedicated(bare: redis.Redis) -> None:
    for connection in bare.client_list():
        if not connection["name"] and connection["cmd"] != "client|list":
            bare.client_kill_filter(_id=connection["id"])


@pytest.mark.parametrize(("before", "command"), [("EXPIRE", STORE_MODEL), ("PERSIST", STREAMED)])
def test_a_lost_connection_leaves_nothing_staged(
    client: Wire, proxy: Proxy, bare: redis.Redis, before: str, command: tuple[Any, ...]
) -> None:
    assert client(*SMALL) == b"OK"
    proxy.before(before, lambda: _cut_dedicated(bare))
    with pytest.raises(ConnectionError):
        client(*command)
    assert proxy.acted
    assert bare.keys("*:staging:*") == []


def test_all_models_are_listed_but_those_that_are_being_stored(
    client: Wire, front_door: FrontDoor, proxy: Proxy, bare: redis.Redis
) -> None:
    staged: list[list[bytes]] = []
    listed: list[Any] = []
    for key in ("env:staging:m", "{env}:staging:m"):
        assert client("AI.MODELSTORE", key, *STORE_MODEL[2:]) == b"OK"
    with Wire(front_door.port) as other:

        def look() -> None:
            staged.append(bare.keys("n:staging:*"))
            listed.extend(other("AI._MODELSCAN"))

        proxy.before("PERSIST", look)
        assert client("AI.MODELSTORE", "n", *STORE_MODEL[2:]) == b"OK"
    assert len(staged[0]) == 1
    assert sorted(key for key, _ in listed) == [b"env:staging:m", b"m", b"{env}:staging:m"]
