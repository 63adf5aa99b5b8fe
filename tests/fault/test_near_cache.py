"""The near cache's one rule: a command that arrives after a write was acknowledged, by Redis itself or by any sidecar,
sees that write, and nothing that it leaves behind tells of an older value.

Here each way to break it has a test of its own, where a proxy stops replies on their way; the hammer
(`test_near_cache_hammer`) hits at random. The model multiplies by 2, so a result tells what it was computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hiredis
import pytest
import redis

from redisai_py.config import Config
from scripts import make_models
from tests.proxy import SHARED, Proxy
from tests.support import FrontDoor, RedisServer
from tests.waiting import until
from tests.wire import Wire, numbers, value

RUN = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
IN_PLACE = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "x")
DAG = ("AI.DAGEXECUTE", "LOAD", "1", "x", "PERSIST", "1", "y", "|>", *RUN)
COMMANDS = pytest.mark.parametrize("command", [RUN, DAG], ids=["model", "dag"])
DONE = (b"OK", [b"OK"])
_DATA = 128  # offset of the elements in the stored value
_KEYS = 100
_READS_AFTER_CHANGE = 8


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """Between the front door of `door` and Redis."""
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def door(proxy: Proxy, bare: redis.Redis) -> Iterator[FrontDoor]:
    """A front door behind the proxy; the model is stored."""
    server = FrontDoor(Config(redis=proxy.url, port=0, drain_timeout_s=1))
    with Wire(server.port) as client:
        assert client("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul()) == b"OK"
    yield server
    proxy.release()
    server.stop()


@pytest.fixture
def near(door: FrontDoor, bare: redis.Redis) -> Iterator[Wire]:
    """A client of `door`; the model's id and x, 1, are near."""
    with Wire(door.port) as client:
        _warm(client, bare)
        yield client


@pytest.fixture
def other_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A second sidecar on the same Redis."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1))
    yield server
    server.stop()


def _warm(client: Wire, bare: redis.Redis) -> None:
    bare.set("x", value(1))
    for command in (RUN, DAG):
        assert client(*command) in DONE
    assert _reads(client, bare, RUN) == _reads(client, bare, DAG) == 0, "x is not near"


def _reads(client: Wire, bare: redis.Redis, command: tuple[str, ...]) -> int:
    """How often Redis is asked for tensors when a command runs."""
    bare.config_resetstat()
    assert client(*command) in DONE
    return int(bare.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


def _when_asked(client: Wire, proxy: Proxy, command: tuple[str, ...]) -> None:
    """Send a command whose near values are out of date unknown to the server, which finds out only later."""
    client.send(*command)
    assert proxy.asked.acquire(timeout=20), "the server asked Redis nothing"
    proxy.release()
    assert client.receive() in DONE


# -- writes of others, which nobody tells of ---------------------------------------------------------------------------


@COMMANDS
def test_a_value_that_others_changed_is_not_used(
    command: tuple[str, ...], near: Wire, proxy: Proxy, bare: redis.Redis
) -> None:
    proxy.hold(SHARED)
    bare.set("x", value(10))
    _when_asked(near, proxy, command)
    assert numbers(bare.get("y")) == [20, 20]


def test_an_acknowledged_write_is_not_lost_to_a_run_in_place(near: Wire, proxy: Proxy, bare: redis.Redis) -> None:
    proxy.hold(SHARED)
    bare.set("x", value(10))
    _when_asked(near, proxy, IN_PLACE)
    assert numbers(bare.get("x")) == [20, 20]


@COMMANDS
def test_nobody_ever_reads_an_output_of_an_old_input(
    command: tuple[str, ...], near: Wire, proxy: Proxy, bare: redis.Redis, redis_server: RedisServer
) -> None:
    proxy.hold(SHARED)
    bare.set("x", value(10))
    with redis.Redis(port=redis_server.port) as watcher, watcher.pubsub() as events:
        bare.config_set("notify-keyspace-events", "K$")
        events.subscribe("__keyspace@0__:y")
        assert events.get_message(timeout=20)["type"] == "subscribe"
        _when_asked(near, proxy, command)
        bare.config_set("notify-keyspace-events", "")
        bare.publish("__keyspace@0__:y", "end")
        written = [message["data"] for message in _until_end(events)]
    assert written == [b"set"]
    assert numbers(bare.get("y")) == [20, 20]


def _until_end(events: redis.client.PubSub) -> Iterator[dict[str, bytes]]:
    while (message := events.get_message(timeout=20)) is not None and message["data"] != b"end":
        yield message


@COMMANDS
def test_an_error_computed_from_an_old_input_is_not_told(
    command: tuple[str, ...], near: Wire, proxy: Proxy, bare: redis.Redis, door: FrontDoor
) -> None:
    with Wire(door.port) as client:
        assert client("AI.TENSORSET", "x", "INT8", "1", "VALUES", "3") == b"OK"  # not what the model takes
    wrong = near(*command)
    assert isinstance(wrong[0] if isinstance(wrong, list) else wrong, hiredis.ReplyError)
    proxy.hold(SHARED)
    bare.set("x", value(10))
    _when_asked(near, proxy, command)
    assert numbers(bare.get("y")) == [20, 20]


@COMMANDS
def test_a_replaced_model_is_not_run(
    command: tuple[str, ...], near: Wire, proxy: Proxy, bare: redis.Redis, other_door: FrontDoor
) -> None:
    proxy.hold(SHARED)
    with Wire(other_door.port) as other:
        assert other("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_heavy(0)) == b"OK"
    _when_asked(near, proxy, command)
    assert numbers(bare.get("y")) == [1, 1], "the new model is the identity"


@COMMANDS
def test_a_lost_connection_takes_its_entries_along(
    command: tuple[str, ...], near: Wire, door: FrontDoor, bare: redis.Redis
) -> None:
    for client in bare.client_list():
        if client["name"] == "redisai-shared":
            bare.client_kill_filter(_id=client["id"])
    bare.set("x", value(10))
    try:
        assert near(*command) in DONE
    except ConnectionError:  # sent before the server read that its connection was lost
        with Wire(door.port) as again:
            assert again(*command) in DONE
    assert numbers(bare.get("y")) == [20, 20]


def test_a_run_for_nothing_is_not_counted(near: Wire, bare: redis.Redis) -> None:
    def counters() -> dict[bytes, object]:
        info = near("AI.INFO", "m")
        return {name: info[i + 1] for i, name in enumerate(info) if name in (b"samples", b"calls", b"errors")}

    near("AI.INFO", "m", "RESETSTAT")
    for number in range(1, 4):
        bare.set("x", value(number))
        assert near(*RUN) == b"OK"
    assert counters() == {b"samples": 3, b"calls": 3, b"errors": 0}


def test_a_key_that_others_keep_changing_is_read_first(near: Wire, bare: redis.Redis) -> None:
    for number in range(3):
        bare.set("x", value(number))
        assert near(*RUN) == b"OK"
    assert _reads(near, bare, RUN) == 1
    for _ in range(_READS_AFTER_CHANGE):
        assert near(*RUN) == b"OK"
    assert _reads(near, bare, RUN) == 0


# -- writes of our own -------------------------------------------------------------------------------------------------


def test_what_a_disconnected_client_wrote_is_seen(near: Wire, door: FrontDoor, proxy: Proxy, bare: redis.Redis) -> None:
    def connected() -> set[str]:
        return {client["id"] for client in bare.client_list()}

    before = connected()
    with Wire(door.port) as writer:
        assert writer("AI.TENSORSET", "z", "FLOAT", "1", "2", "VALUES", "0", "0") == b"OK"
        proxy.hold(SHARED)
        writer.send("AI.TENSORSET", "x", "FLOAT", "1", "2", "VALUES", "10", "10")
        assert proxy.asked.acquire(timeout=20)
        opened = connected() - before
    # The server may open others meanwhile, to look after its models: it is not enough to count.
    until(lambda: not opened <= connected(), "the writer's own connection is closed")
    proxy.release()
    until(lambda: bare.get("x") == value(10), "the tensor is written")
    assert near(*RUN) == b"OK"
    assert numbers(bare.get("y")) == [20, 20]


WRITES = {
    "an output computed the long way": ("AI.MODELEXECUTE", "m", "INPUTS", "1", "five", "OUTPUTS", "1", "x"),
    "a large output beside it": ("AI.DAGEXECUTE", "LOAD", "1", "ten", "PERSIST", "2", "x", "large", "|>",
                                 "AI.TENSORSET", "large", "FLOAT", "40000", "|>",
                                 "AI.MODELEXECUTE", "m", "INPUTS", "1", "five", "OUTPUTS", "1", "x"),
    "persisted the long way": ("AI.DAGEXECUTE", "LOAD", "1", "five", "PERSIST", "1", "x", "|>",
                               "AI.MODELEXECUTE", "m", "INPUTS", "1", "five", "OUTPUTS", "1", "x"),
    "persisted only if unchanged": ("AI.DAGEXECUTE", "LOAD", "1", "five", "PERSIST", "1", "x", "IFUNCHANGED", "|>",
                                    "AI.MODELEXECUTE", "m", "INPUTS", "1", "five", "OUTPUTS", "1", "x"),
    "persisted with a lifetime": ("AI.DAGEXECUTE", "LOAD", "1", "five", "PERSIST", "1", "x", "EX", "100", "|>",
                                  "AI.MODELEXECUTE", "m", "INPUTS", "1", "five", "OUTPUTS", "1", "x"),
    "persisted at once": ("AI.DAGEXECUTE", "ROUTING", "r", "PERSIST", "1", "x", "|>",
                          "AI.TENSORSET", "x", "FLOAT", "1", "2", "VALUES", "10", "10"),
    "set": ("AI.TENSORSET", "x", "FLOAT", "1", "2", "VALUES", "10", "10"),
    "set through Redis": ("SET", "x", value(10)),
    "streamed": ("AI.TENSORSET", "x", "FLOAT", "200000", "2", "BLOB", value(10, 200000)[-1600000:]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_own_writes_are_seen(name: str, near: Wire, door: FrontDoor, bare: redis.Redis) -> None:
    bare.mset({"five": value(5), "ten": value(10)})
    command = list(WRITES[name])
    if "large" in command:
        command[2:4] = ["1", "five"]
    with Wire(door.port) as writer:
        for number in range(2):  # the second time what the write itself reads is near
            bare.set("x", value(number))
            assert near(*RUN) == b"OK"
            assert not isinstance(writer(*command), hiredis.ReplyError)
            assert near(*RUN) == b"OK"
            assert set(numbers(bare.get("y")) or []) == {20}, "computed from what was there before"


def test_a_value_read_before_a_write_of_our_own_is_not_kept(
    near: Wire, door: FrontDoor, proxy: Proxy, bare: redis.Redis, other_door: FrontDoor
) -> None:
    with Wire(other_door.port) as other:
        assert other("AI.MODELSTORE", "unloaded", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul()) == b"OK"
    bare.set("x", value(1))  # no longer near, so that the next run reads it
    with Wire(door.port) as reader:
        proxy.hold(b"blob:0")
        reader.send("AI.MODELEXECUTE", "unloaded", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
        assert proxy.asked.acquire(timeout=20), "the model's bytes are not asked for"
        assert near("AI.TENSORSET", "x", "FLOAT", "1", "2", "VALUES", "10", "10") == b"OK"
        bare.set("x2", value(0))
        proxy.release()
        assert reader.receive() == b"OK"
    assert near(*RUN) == b"OK"
    assert numbers(bare.get("y")) == [20, 20]


# -- keys that end without a write -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["x", "m"])
@COMMANDS
def test_a_key_that_has_expired_is_not_used(command: tuple[str, ...], key: str, near: Wire, bare: redis.Redis) -> None:
    bare.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")  # nobody deletes it, so nobody tells of it
    try:
        bare.pexpire(key, 50)
        replies = []
        until(lambda: replies.append(near(*command)) or isinstance(replies[-1], hiredis.ReplyError), "expiry")
        assert "key is empty" in str(replies[-1])
    finally:
        bare.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")


@pytest.fixture
def memory_limit(bare: redis.Redis) -> Iterator[Callable[[str, int], None]]:
    """Set maxmemory-policy, and maxmemory to so many bytes more than are used now."""

    def limit(policy: str, spare: int) -> None:
        bare.config_set("maxmemory-policy", policy)
        bare.config_set("maxmemory", bare.info("memory")["used_memory"] + spare)

    yield limit
    bare.config_set("maxmemory", 0)
    bare.config_set("maxmemory-policy", "noeviction")


def test_a_key_evicted_by_a_command_of_our_own_and_stored_again_is_read_again(
    bare: redis.Redis, memory_limit: Callable[[str, int], None], redis_server: RedisServer
) -> None:
    memory_limit("volatile-ttl", 100_000_000)
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1))
    try:
        with Wire(server.port) as client:
            assert client("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul()) == b"OK"
            bare.set("x", value(1), ex=1000)
            for _ in range(3):
                assert client(*RUN) == b"OK"
            memory_limit("volatile-ttl", 500_000)
            for i in range(_KEYS):  # on the stream that tracks, whose own evictions Redis does not tell of
                client("AI.TENSORSET", f"big{i}", "FLOAT", "15000")
            assert bare.info("stats")["evicted_keys"]
            assert not bare.exists("x")
            bare.config_set("maxmemory", 0)
            bare.set("x", value(10))
            assert client(*RUN) == b"OK"
            assert numbers(bare.get("y")) == [20, 20]
    finally:
        server.stop()


# -- databases and rights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [False, True], ids=["alone", "in MULTI"])
@COMMANDS
def test_swapped_databases_are_noticed(
    command: tuple[str, ...], transaction: bool, near: Wire, door: FrontDoor, bare: redis.Redis
) -> None:
    bare.copy("m", "m", destination_db=1)
    with Wire(door.port) as client:
        client("SELECT", "1")
        client("SET", "x", value(10))
        client(*command)
        if transaction:
            assert client("MULTI") == b"OK"
            assert client("SWAPDB", "0", "1") == b"QUEUED"
            assert client("EXEC") == [b"OK"]
        else:
            assert client("SWAPDB", "0", "1") == b"OK"
        assert near(*command) in DONE
        assert numbers(bare.get("y")) == [20, 20]
        assert client(*command) in DONE
        assert numbers(client("GET", "y")) == [2, 2]


@COMMANDS
def test_a_right_that_was_taken_away_is_gone(
    command: tuple[str, ...], near: Wire, door: FrontDoor, bare: redis.Redis
) -> None:
    bare.acl_setuser("ann", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["*"])
    try:
        with Wire(door.port) as ann:
            assert ann("AUTH", "ann", "secret") == b"OK"
            for _ in range(2):
                assert ann(*command) in DONE
            bare.execute_command("ACL", "SETUSER", "ann", "resetkeys", "~m", "~y")
            reply = ann(*command)
            assert isinstance(reply, hiredis.ReplyError)
            assert str(reply).startswith("NOPERM")
    finally:
        bare.acl_deluser("ann")


def test_values_in_use_do_not_look_idle_to_redis(near: Wire, bare: redis.Redis) -> None:
    until(lambda: bare.object("idletime", "x") >= 1, "a second")
    assert _reads(near, bare, RUN) == 0
    assert bare.object("idletime", "x") == 0
