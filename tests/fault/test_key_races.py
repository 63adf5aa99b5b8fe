"""Keys that others write while a command looks at them: no error tells of something that never was there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
import redis

from redisai_py.config import Config
from scripts import make_models
from tests.proxy import Proxy
from tests.support import FrontDoor
from tests.wire import Wire, value

MODEL = make_models.build_onnx_mul()
SCRIPT = "def double(inputs: List[Tensor], keys: List[str], args: List[str]):\n    return 2 * inputs[0]\n"
STORE_MODEL = ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", MODEL)
STORE_SCRIPT = ("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", "1", "double", "SOURCE", SCRIPT)
RUN = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
LOAD = ("AI.DAGEXECUTE", "LOAD", "1", "x")
LARGE = ("AI.TENSORSET", "y", "UINT8", "100000", "BLOB", b"\1" * 100_000)
SMALL = ("AI.TENSORSET", "y", "UINT8", "1", "BLOB", b"\1")
ABSENT = "ERR tensor key is empty or in a different shard"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.fixture
def client(proxy: Proxy, bare: redis.Redis) -> Iterator[Wire]:
    """A client of a front door behind the proxy; `m` is a model."""
    server = FrontDoor(Config(redis=proxy.url, port=0, drain_timeout_s=1))
    with Wire(server.port) as client:
        assert client(*STORE_MODEL) == b"OK"
        yield client
    server.stop()


def _words(reply: Any) -> Any:
    """A reply, errors as their text."""
    if isinstance(reply, list):
        return [_words(item) for item in reply]
    return str(reply) if isinstance(reply, hiredis.ReplyError) else reply


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(RUN, id="model"),
        pytest.param((*LOAD, "PERSIST", "1", "y", "|>", *RUN), id="dag"),
        pytest.param((*LOAD, "PERSIST", "1", "y", "IFUNCHANGED", "|>", *RUN), id="dag-ifunchanged"),
        pytest.param((*LOAD, "|>", "AI.TENSORGET", "x", "VALUES"), id="dag-tensorget"),
    ],
)
def test_an_input_that_comes_after_it_was_looked_for_was_absent(
    client: Wire, proxy: Proxy, bare: redis.Redis, command: tuple[str, ...]
) -> None:
    proxy.before("TYPE", lambda: bare.set("x", value(1)))
    assert _words(client(*command)) == ABSENT
    assert proxy.acted
    assert not isinstance(client(*command), hiredis.ReplyError)


def test_a_tensor_that_comes_while_it_is_looked_for_is_read(client: Wire, proxy: Proxy, bare: redis.Redis) -> None:
    proxy.before("TYPE", lambda: bare.set("x", value(1)))
    assert client("AI.TENSORGET", "x", "VALUES") == [b"1", b"1"]
    assert proxy.acted


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        pytest.param(LARGE, b"OK", id="tensor"),
        pytest.param(("AI.DAGEXECUTE", "PERSIST", "1", "y", "|>", *LARGE), [b"OK"], id="dag"),
    ],
)
@pytest.mark.parametrize("other", [b"", b"text", None], ids=["empty", "text", "list"])
def test_a_large_tensor_is_written_over_one_that_came_and_over_nothing_else(
    client: Wire,
    proxy: Proxy,
    bare: redis.Redis,
    command: tuple[str | bytes, ...],
    reply: bytes | list[bytes],
    other: bytes | None,
) -> None:
    proxy.before("EXISTS", lambda: bare.set("y", value(1)))
    assert client(*command) == reply
    assert proxy.acted
    bare.delete("y")
    proxy.before("EXISTS", lambda: bare.lpush("y", "item") if other is None else bare.set("y", other))
    refused = _words(client(*command))
    assert refused == WRONG_TYPE if reply == b"OK" else refused[-1] == WRONG_TYPE
    assert proxy.acted
    assert bare.lrange("y", 0, -1) == [b"item"] if other is None else bare.get("y") == other


def test_without_scripts_a_tensor_is_written_over_one_that_came(client: Wire, proxy: Proxy, bare: redis.Redis) -> None:
    bare.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
    try:
        assert client("AUTH", "plain", "any") == b"OK"
        proxy.before("TYPE", lambda: bare.set("y", value(1)))
        assert client(*SMALL) == b"OK"
        assert proxy.acted
        bare.set("y", b"")
        assert _words(client(*SMALL)) == WRONG_TYPE
    finally:
        bare.acl_deluser("plain")


def test_a_model_that_comes_while_it_is_looked_for_is_run(client: Wire, proxy: Proxy, bare: redis.Redis) -> None:
    bare.set("x", value(3))
    bare.rename("m", "kept")
    proxy.before("TYPE", lambda: bare.rename("kept", "m"))
    assert client(*RUN) == b"OK"
    assert proxy.acted


@pytest.mark.parametrize(
    ("key", "command"), [("m", ("AI.MODELGET", "m", "META")), ("s", ("AI.SCRIPTGET", "s", "META"))]
)
def test_a_description_that_comes_while_it_is_looked_for_is_read(
    client: Wire, proxy: Proxy, bare: redis.Redis, key: str, command: tuple[str, ...]
) -> None:
    assert key == "m" or client(*STORE_SCRIPT) == b"OK"
    told = client(*command)
    bare.rename(key, "kept")
    proxy.before("TYPE", lambda: bare.rename("kept", key))
    assert client(*command) == told
    assert proxy.acted


def test_what_is_there_and_is_no_model_is_the_wrong_type(client: Wire, bare: redis.Redis) -> None:
    bare.hset("other", "field", "1")
    assert _words(client("AI.MODELGET", "other", "META")) == WRONG_TYPE
    assert _words(client("AI.SCRIPTGET", "m", "META")) == WRONG_TYPE
    assert _words(client("AI.MODELSTORE", "other", *STORE_MODEL[2:])) == WRONG_TYPE
    assert bare.hgetall("other") == {b"field": b"1"}


@pytest.mark.parametrize(("key", "command"), [("m", STORE_MODEL), ("s", STORE_SCRIPT)])
def test_a_model_that_goes_while_another_is_stored_under_its_key_is_no_other_type(
    client: Wire, proxy: Proxy, bare: redis.Redis, key: str, command: tuple[str | bytes, ...]
) -> None:
    assert client(*command) == b"OK"
    proxy.before("HGET", lambda: bare.delete(key))
    assert client(*command) == b"OK"
    assert proxy.acted
    assert bare.hget(key, "kind") is not None
