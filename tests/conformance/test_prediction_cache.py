"""AI.CACHE and what it changes in AI.MODELEXECUTE and in DAGs, over the wire."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from scripts.make_models import build_onnx_add
from tests.conformance.running import counters, store, tensor

RULE = ("TTL", 60, "MINRUN", 0)


def fields(reply: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def stats(client: redis.Redis, key: str = "net") -> dict[str, Any]:
    return fields(client.execute_command("AI.CACHE", "STATS", key))


def entries(bare: redis.Redis) -> list[bytes]:
    return sorted(bare.scan_iter(match="ai:pred:*"))


def stored(bare: redis.Redis, count: int) -> list[bytes]:
    """The entries, when there are so many: an insert follows the answer."""
    deadline = time.monotonic() + 20
    while len(found := entries(bare)) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == count
    return found


def values(client: redis.Redis, key: str) -> list[bytes]:
    return client.execute_command("AI.TENSORGET", key, "VALUES")


@pytest.fixture
def ruled(client: redis.Redis) -> redis.Redis:
    """A client of a server that holds the model `net` with a rule, and the tensors a and b."""
    store(client, blob=build_onnx_add())
    assert client.execute_command("AI.CACHE", "SET", "net", *RULE) == b"OK"
    tensor(client, "a", (1.0, 2.0))
    tensor(client, "b", (3.0, 4.0))
    return client


def execute(client: redis.Redis, *more: str, inputs: tuple[str, ...] = ("a", "b"), output: str = "c") -> Any:
    words = ("AI.MODELEXECUTE", "net", "INPUTS", len(inputs), *inputs, "OUTPUTS", 1, output, *more)
    return client.execute_command(*words)


def test_a_rule_is_set_read_and_taken_away(client):
    store(client)
    assert client.execute_command("AI.CACHE", "GET", "net") is None
    words = ("TTL", 9, "JITTER", 0, "MAXBYTES", 1000, "WARM", 5, "SCOPE", "user", "MINRUN", 7)
    assert client.execute_command("AI.CACHE", "SET", "net", *words) == b"OK"
    assert fields(client.execute_command("AI.CACHE", "GET", "net")) == {
        "ttl": 9, "jitter": 0, "rows": 0, "maxbytes": 1000, "warm": 5, "scope": b"USER", "minrun": 7,
    }  # fmt: skip
    store(client)  # a new version keeps the rule
    assert fields(client.execute_command("AI.CACHE", "GET", "net"))["ttl"] == 9
    assert client.execute_command("AI.CACHE", "DEL", "net") == 1
    assert client.execute_command("AI.CACHE", "DEL", "net") == 0
    assert client.execute_command("AI.CACHE", "GET", "net") is None


def test_equal_inputs_are_computed_once(ruled, bare):
    assert execute(ruled) == b"OK"
    (entry,) = stored(bare, 1)
    assert 50 <= bare.ttl(entry) <= 60
    assert values(ruled, "c") == values(ruled, entry.decode())
    for number in range(20):
        assert execute(ruled, output=f"c{number}") == b"OK"
        assert values(ruled, f"c{number}") == values(ruled, "c")
    found = stats(ruled)
    assert (found["hits"], found["misses"], found["inserts"]) == (20, 1, 1)
    assert counters(ruled) == (21, 0, 21)  # a hit is a call, and no execution
    assert fields(ruled.execute_command("AI.INFO", "net", "FULL"))["batches"] == 1


def test_other_inputs_and_another_model_are_another_prediction(ruled, bare):
    execute(ruled)
    execute(ruled, inputs=("b", "a"))
    tensor(ruled, "a", (5.0, 2.0))
    execute(ruled)
    assert values(ruled, "c") == [b"8", b"6"]
    stored(bare, 3)


def test_the_words_of_a_run(ruled, bare):
    with pytest.raises(redis.ResponseError, match=r"^MISS no prediction for these inputs is stored"):
        execute(ruled, "CACHE", "ONLY")
    assert execute(ruled, "CACHE", "NO") == b"OK"
    assert entries(bare) == []
    assert execute(ruled, "TIMEOUT", 5000, "CACHE", "refresh") == b"OK"
    (entry,) = stored(bare, 1)
    bare.expire(entry, 5)
    assert execute(ruled, "CACHE", "REFRESH", "TIMEOUT", 5000) == b"OK"
    deadline = time.monotonic() + 20
    while bare.ttl(entry) <= 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bare.ttl(entry) > 5
    assert execute(ruled, "CACHE", "ONLY") == b"OK"
    for words in (("CACHE",), ("CACHE", "MAYBE"), ("CACHE", "NO", "CACHE", "NO")):
        with pytest.raises(redis.ResponseError):
            execute(ruled, *words)
    ruled.execute_command("AI.CACHE", "DEL", "net")
    with pytest.raises(redis.ResponseError, match=r"^MISS .*no cache rule"):
        execute(ruled, "CACHE", "ONLY")
