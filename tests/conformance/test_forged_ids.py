"""A stored id is no proof: whoever writes somebody else's id into a hash of their own runs their own program, with
their own rights, and changes nothing of the other's.

Two users: ann, who owns `ann:*`, and eve, who owns `eve:*` and has come to know ann's ids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.contents import scaling_model
from tests.support import LOCALHOST, FrontDoor, RedisServer

_RIGHTS = """
+hget +hset +hmget +exists +expire +persist +rename +del +type +watch +unwatch +multi +exec +mget +get +getrange +set
+script|load +evalsha +eval +copy +acl +mset +discard
"""
_SOURCE = """
def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2
"""
_EVIL = """
def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    if len(args) == 0:
        redis.execute("SET", "ann:loot", "x")
    return tensors[0] * -666
"""


@pytest.fixture
def users(bare: redis.Redis) -> Iterator[None]:
    for name in ("ann", "eve"):
        bare.execute_command("ACL", "SETUSER", name, "reset", "on", f">{name}", f"~{name}:*", *_RIGHTS.split())
    yield
    for name in ("ann", "eve"):
        bare.execute_command("ACL", "DELUSER", name)


class User:
    """One of them, as a client of a server."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.client = redis.Redis(
            host=LOCALHOST, port=port, username=name, password=name, protocol=2, socket_timeout=50, retry=None
        )
        self("AI.TENSORSET", f"{name}:x", "FLOAT", 1, 2, "VALUES", 1, 2)

    def __call__(self, *words: Any) -> Any:
        return self.client.execute_command(*words)

    def key(self, name: str) -> str:
        return f"{self.name}:{name}"

    def run(self, model: str = "m", *options: Any) -> list[float]:
        x, y = self.key("x"), self.key("y")
        self("AI.MODELEXECUTE", self.key(model), "INPUTS", 1, x, "OUTPUTS", 1, y, *options)
        return self.values()

    def run_script(self, *args: str) -> list[float]:
        x, y = self.key("x"), self.key("y")
        words = ["ARGS", len(args), *args] if args else []
        self("AI.SCRIPTEXECUTE", self.key("s"), "f", "INPUTS", 1, x, *words, "OUTPUTS", 1, y)
        return self.values()

    def values(self) -> list[float]:
        return [float(word) for word in self("AI.TENSORGET", self.key("y"), "VALUES")]

    def calls(self, key: str = "m") -> int:
        report = self("AI.INFO", self.key(key))
        return int(report[report.index(b"calls") + 1])


@contextlib.contextmanager
def served(redis_server: RedisServer) -> Iterator[Callable[[str], User]]:
    door = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    try:
        yield lambda name: User(name, door.port)
    finally:
        door.stop()


def forge_model(bare: redis.Redis, blob: bytes, **fields: Any) -> None:
    """eve writes a model's hash with ann's id, as she may with HSET."""
    theirs: Any = bare.hgetall("ann:m")
    hash_ = {**theirs, b"blob:0": blob, **{name.encode(): value for name, value in fields.items()}}
    with redis.Redis(port=bare.connection_pool.connection_kwargs["port"], username="eve", password="eve") as eve:
        eve.execute_command("DEL", "eve:m")
        eve.hset("eve:m", mapping=hash_)
        assert eve.hget("eve:m", "id") == bare.hget("ann:m", "id")


@pytest.mark.usefixtures("users")
def test_a_forged_id_runs_the_forgers_own_model(redis_server: RedisServer, bare: redis.Redis) -> None:
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        ann("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        assert ann.run() == [2, 4]
        forge_model(bare, scaling_model(-666))
        for _ in range(5):  # later ones start on near values
            assert eve.run() == [-666, -1332]
            assert ann.run() == [2, 4]
        # To be unloaded with eve's copy, and loaded again from it, is what she hopes for.
        for _ in range(3):
            eve("AI.MODELDEL", "eve:m")
            assert ann.run() == [2, 4]
            forge_model(bare, scaling_model(-666))
            assert eve.run() == [-666, -1332]
            assert ann.run() == [2, 4]


@pytest.mark.usefixtures("users")
def test_a_forged_id_after_a_restart(redis_server: RedisServer, bare: redis.Redis) -> None:
    with served(redis_server) as user:
        ann = user("ann")
        ann("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        ann("AI.SCRIPTSTORE", "ann:s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", _SOURCE)
    forge_model(bare, scaling_model(-666))
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        for _ in range(4):  # eve is first
            assert eve.run() == [-666, -1332]
            assert ann.run() == [2, 4]


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize(
    "fields",
    [{"batchsize": 8, "minbatchsize": 8}, {"device": "CPU:1"}, {"inputs": b'["a"]', "outputs": b'["b"]'}],
    ids=lambda fields: next(iter(fields)),
)
def test_whatever_decides_the_behaviour_is_part_of_the_identity(
    redis_server: RedisServer, bare: redis.Redis, fields: dict[str, Any]
) -> None:
    """The same bytes, another description: eve's must not be ann's, and would hold her runs for a batch, say."""
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        ann("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        forge_model(bare, scaling_model(2), **fields)
        eve("AI.MODELEXECUTE", "eve:m", "INPUTS", 1, "eve:x", "OUTPUTS", 1, "eve:y", "TIMEOUT", 100)
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        eve("AI.MODELEXECUTE", "eve:m", "INPUTS", 1, "eve:x", "OUTPUTS", 1, "eve:y", "TIMEOUT", 100)
        assert ann.run() == [2, 4], "it waited for a batch, or failed"
        report = ann("AI.INFO", "ann:m")
        assert report[report.index(b"device") + 1] == b"CPU"


@pytest.mark.usefixtures("users")
def test_counters_are_not_found_by_a_forged_id(redis_server: RedisServer, bare: redis.Redis) -> None:
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        ann("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        for _ in range(3):
            ann.run()
        forge_model(bare, scaling_model(-666))
        assert eve.calls() == 0
        eve("AI.INFO", "eve:m", "RESETSTAT")
        with eve.client.pipeline(transaction=True) as together:
            together.execute_command("AI.INFO", "eve:m", "RESETSTAT")
            together.execute()
        assert ann.calls() == 3
        eve.run()
        assert (eve.calls(), ann.calls()) == (1, 3)


@pytest.mark.usefixtures("users")
def test_a_forged_id_runs_the_forgers_own_script(redis_server: RedisServer, bare: redis.Redis) -> None:
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        ann("AI.SCRIPTSTORE", "ann:s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", _SOURCE)
        assert ann.run_script() == [2, 4]
        theirs: Any = bare.hgetall("ann:s")
        eve.client.hset("eve:s", mapping={**theirs, b"source": _EVIL})
        for _ in range(4):
            with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
                eve.run_script()
            assert eve.run_script("harmless") == [-666, -1332]
            assert ann.run_script() == [2, 4]
        assert bare.get("ann:loot") is None
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        for _ in range(4):  # eve is first, and the worker has met her source first
            assert eve.run_script("harmless") == [-666, -1332]
            assert ann.run_script() == [2, 4]
        assert bare.get("ann:loot") is None
        assert ann.calls("s") == 4
        eve("AI.INFO", "eve:s", "RESETSTAT")
        assert ann.calls("s") == 4


_LOOK_AROUND = """
def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    found = torch.zeros([1, 2])
    for size in [1000, 1000, 500, 2000]:
        found += int((torch.empty([size], dtype=torch.int32) == 424242).sum().item())
    return found
"""


@pytest.mark.usefixtures("users")
def test_no_script_sees_the_memory_of_another_users(redis_server: RedisServer) -> None:
    with served(redis_server) as user:
        ann, eve = user("ann"), user("eve")
        ann("AI.SCRIPTSTORE", "ann:s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", _SOURCE.replace("* 2", "+ 0"))
        eve("AI.SCRIPTSTORE", "eve:s", "CPU", "ENTRY_POINTS", 1, "f", "SOURCE", _LOOK_AROUND)
        ann("AI.TENSORSET", "ann:secret", "INT32", 1000, "VALUES", *[424242] * 1000)
        for _ in range(5):
            ann("AI.SCRIPTEXECUTE", "ann:s", "f", "INPUTS", 1, "ann:secret", "OUTPUTS", 1, "ann:y")
            assert eve.run_script() == [0, 0]


@pytest.mark.usefixtures("users")
def test_copies_and_renames_are_one_program_with_its_counters(redis_server: RedisServer) -> None:
    with served(redis_server) as user:
        ann = user("ann")
        ann("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        ann.run()
        ann("COPY", "ann:m", "ann:copy")
        assert ann.run("copy") == [2, 4]
        assert ann.calls("copy") == ann.calls() == 2
        ann("AI.MODELDEL", "ann:copy")
        ann("RENAME", "ann:m", "ann:renamed")
        assert ann.calls("renamed") == 2
        assert ann.run("renamed") == [2, 4]
        assert ann.calls("renamed") == 3


@pytest.mark.usefixtures("users")
def test_hashes_of_earlier_versions_and_two_servers(redis_server: RedisServer, bare: redis.Redis) -> None:
    """Any id is as good as any other, as long as it changes with the model."""
    with served(redis_server) as first, served(redis_server) as second:
        here, there = first("ann"), second("ann")
        here("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(2))
        bare.hset("ann:m", mapping={"id": "0" * 32, "inputs": "[]", "outputs": "[]"})
        for _ in range(3):
            assert here.run() == there.run() == [2, 4]
        there("AI.MODELSTORE", "ann:m", "ONNX", "CPU", "BLOB", scaling_model(3))
        for _ in range(3):
            assert here.run() == there.run() == [3, 6]
