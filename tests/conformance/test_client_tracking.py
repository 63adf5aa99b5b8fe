"""CLIENT TRACKING: AI commands count as reads and writes of their client, and it is told before the reply."""

from __future__ import annotations

import numpy as np
import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from redisai_py.store import codec
from redisai_py.tensor import Tensor
from scripts.make_models import build_onnx_mul
from tests.support import FrontDoor
from tests.wire import Wire, numbers, value

MODEL = ("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul())
SCRIPT = "def twice(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0] * 2\n"
WRITES = {
    "a small tensor": ("AI.TENSORSET", "y", "FLOAT", "1", "2", "VALUES", "1", "2"),
    "a large tensor": ("AI.TENSORSET", "y", "FLOAT", "50000"),
    "a very large tensor": ("AI.TENSORSET", "y", "UINT8", "3000000", "BLOB", bytes(3_000_000)),
    "a run": ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y"),
    "a DAG": (
        "AI.DAGEXECUTE", "LOAD", "1", "x", "PERSIST", "1", "y", "|>", "AI.MODELEXECUTE", "m", "INPUTS", "1", "x",
        "OUTPUTS", "1", "y"
    ),
    "a script": ("AI.SCRIPTEXECUTE", "s", "twice", "INPUTS", "1", "x", "OUTPUTS", "1", "y"),
}  # fmt: skip


class Tracking(Wire):
    """A client that keeps what Redis pushes, in the order of its coming."""

    def __init__(self, port: int, *options: str) -> None:
        self.pushed: list[list[bytes]] = []
        super().__init__(port, 3)
        assert self("CLIENT", "TRACKING", "ON", *options) == b"OK"

    def receive(self) -> object:
        """The next reply; what is pushed before it is kept."""
        while type(reply := super().receive()).__name__ == "PushNotification":
            self.pushed.append(list(reply))
        return reply

    def told(self) -> set[bytes]:
        """Keys that it has been told of since it was last asked, without waiting."""
        messages, self.pushed = self.pushed, []
        return {key for message in messages for key in message[1] or ()}


@pytest.fixture
def stored(front_door: FrontDoor, bare: redis.Redis) -> int:
    """The port of a server; x, y, m and s are stored."""
    bare.mset({"x": value(1), "y": value(1)})
    with Wire(front_door.port) as wire:
        assert wire(*MODEL) == b"OK"
        assert wire("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", "1", "twice", "SOURCE", SCRIPT) == b"OK"
    return front_door.port


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@pytest.mark.parametrize("options", [(), ("BCAST",), ("OPTOUT",)], ids=["default", "bcast", "optout"])
def test_a_client_is_told_of_its_own_write_before_the_reply(
    stored: int, write: tuple[str, ...], options: tuple[str, ...]
) -> None:
    with Tracking(stored, *options) as client:
        for _ in range(20 if len(str(write)) < 1000 else 3):
            client("GET", "y")
            client.told()
            assert client(*write) not in (None, b"")
            assert b"y" in client.told()


def test_nobody_is_told_who_has_not_read(stored: int) -> None:
    with Tracking(stored) as client:
        assert client(*WRITES["a small tensor"]) == b"OK"
        assert client("PING") == b"PONG"
        assert client.told() == set()


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@pytest.mark.parametrize("options", [("NOLOOP",), ("BCAST", "NOLOOP")])
def test_noloop(stored: int, bare: redis.Redis, write: tuple[str, ...], options: tuple[str, ...]) -> None:
    with Tracking(stored, *options) as client:
        client("GET", "y")
        assert client(*write) not in (None, b"")
        assert client("PING") == b"PONG"
        assert client.told() == set()
        client("GET", "y")
        bare.set("y", value(3))
        assert client("PING") == b"PONG"
        assert client.told() == {b"y"}


@pytest.mark.parametrize(
    ("read", "key"),
    [(("AI.TENSORGET", "x", "VALUES"), b"x"), (("AI.MODELGET", "m", "META"), b"m"), (WRITES["a run"], b"x"),
     (WRITES["a run"], b"m"), (WRITES["a DAG"], b"x"), (WRITES["a script"], b"x"), (("AI.INFO", "m"), b"m")],
)  # fmt: skip
def test_what_an_ai_command_reads_is_tracked(stored: int, bare: redis.Redis, read: tuple[str, ...], key: bytes) -> None:
    with Tracking(stored) as client:
        client(*read)
        client.told()
        bare.delete(key)
        assert client("PING") == b"PONG"
        assert client.told() == {key}


@pytest.mark.parametrize("options", [("NOLOOP",), ("BCAST", "NOLOOP")])
def test_noloop_does_not_end_a_watch(stored: int, bare: redis.Redis, options: tuple[str, ...]) -> None:
    with Tracking(stored, *options) as client:
        assert client("WATCH", "w") == b"OK"
        assert client(*WRITES["a small tensor"]) == b"OK"
        assert client(*WRITES["a large tensor"]) == b"OK"
        bare.set("w", 1)
        assert client("MULTI") == b"OK"
        assert client("SET", "late", "1") == b"QUEUED"
        assert client("EXEC") is None
        assert str(client("AI.TENSORSET", "m", "FLOAT", "1")).startswith("WRONGTYPE")
        assert str(client("AI.TENSORSET", "new", "FLOAT", "1", "VALUES", "x")).startswith("ERR")
        assert str(client("AI.TENSORGET", "none")).startswith("ERR tensor key is empty")


def test_optin_and_optout(stored: int, bare: redis.Redis) -> None:
    for mode, word, follows in (("OPTIN", "YES", True), ("OPTOUT", "NO", False)):
        with Tracking(stored, mode) as client:
            for chosen in (False, True):
                if chosen:
                    assert client("CLIENT", "CACHING", word) == b"OK"
                client("AI.TENSORGET", "x", "VALUES")
                bare.set("x", value(2))
                assert client("PING") == b"PONG"
                assert client.told() == ({b"x"} if chosen is follows else set())


def test_redirected(stored: int, bare: redis.Redis) -> None:
    with Wire(stored) as told, Wire(stored) as client:
        number = told("CLIENT", "ID")
        told("SUBSCRIBE", "__redis__:invalidate")
        assert client("CLIENT", "TRACKING", "ON", "REDIRECT", str(number)) == b"OK"
        for _ in range(5):
            client("GET", "y")
            assert client(*WRITES["a run"]) == b"OK"
            assert told.receive() == [b"message", b"__redis__:invalidate", [b"y"]]


def test_tracking_beside_other_states(stored: int, bare: redis.Redis) -> None:
    with Tracking(stored) as client:
        client("GET", "y")
        assert client("MULTI") == b"OK"
        assert client(*WRITES["a small tensor"]) == b"QUEUED"
        assert client("EXEC") == [b"OK"]
        assert client("PING") == b"PONG"
        assert b"y" in client.told()
        client("GET", "y")
        assert client(*WRITES["a run"]) == b"OK"
        assert client.told() == {b"y"}
        assert str(client("AI.TENSORGET", "none")).startswith("ERR tensor key is empty")
        assert client("CLIENT", "TRACKING", "OFF") == b"OK"
        client("GET", "y")
        assert client(*WRITES["a run"]) == b"OK"
        assert client("PING") == b"PONG"
        assert client.told() == set()
        assert (
            client.pipeline([("AI.TENSORSET", f"k{i}", "FLOAT", "1", "VALUES", "1") for i in range(50)]) == [b"OK"] * 50
        )


def test_a_pipeline_of_a_tracking_client(stored: int) -> None:
    """Commands of both kinds keep their order."""
    with Tracking(stored) as client:
        commands: list[tuple[str, ...]] = []
        for i in range(100):
            commands += [
                ("AI.TENSORSET", "p", "FLOAT", "1", "VALUES", str(i)), ("AI.TENSORGET", "p", "VALUES"), ("STRLEN", "p"),
                ("GET", "none"), ("GET", "none"),
            ]  # fmt: skip
        replies = client.pipeline(commands)
        assert [reply[0] for reply in replies[1::5]] == list(range(100))
        assert set(replies[2::5]) == {len(codec.encode_header(Tensor.from_numpy(np.zeros(1, np.float32)))) + 4}


def test_the_cache_of_redis_py(front_door: FrontDoor, bare: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")  # it wants 7.4, for no reason of ours
    if "valkey" in bare.info("server").get("server_name", "redis"):
        pytest.skip("redis-py's cache wants a server that calls itself redis")
    bare.mset({"x": value(1), "y": value(1)})
    with Wire(front_door.port) as wire:
        assert wire(*MODEL) == b"OK"
    with redis.Redis(port=front_door.port, protocol=3, cache_config=CacheConfig()) as client:
        for number in range(1, 100):
            client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", number, number)
            assert numbers(client.get("x")) == [number, number]
            client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            assert numbers(client.get("y")) == [2 * number, 2 * number]
            assert numbers(client.get("y")) == [2 * number, 2 * number]
        assert client.get_cache().size > 0
