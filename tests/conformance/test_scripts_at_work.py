"""Scripts that call back, over sockets: what they are told by Redis and by models, and clients that leave meanwhile."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest
import redis

from redisai_py.config import Config
from scripts.make_models import build_onnx_mul
from tests.conformance.calling_scripts import store_script
from tests.conformance.conversation import Conversation, talk
from tests.support import FrontDoor, RedisServer, free_port, one_front_door, patient
from tests.waiting import until

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("ZRANGE z 0 -1 WITHSCORES", "a|1|b|2.5"),
        ("ZSCORE z a", "1"),
        ("HGETALL h", "f|v"),
        ("SMEMBERS set", "m"),
        ("GET none", "None"),
        ("EXISTS z", "1"),
        ("AI.TENSORGET x VALUES", "1|2"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_reply_does_not_depend_on_the_callers_protocol(
    command: str, told: str, protocol: int, front_door: FrontDoor, bare: redis.Redis
) -> None:
    with redis.Redis(port=front_door.port, protocol=protocol) as client:
        store_script(client)
        client.zadd("z", {"a": 1, "b": 2.5})
        client.hset("h", "f", "v")
        client.sadd("set", "m")
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        words = command.split()
        client.execute_command("AI.SCRIPTEXECUTE", "s", "told", "KEYS", 1, "r", "ARGS", len(words), *words)
        assert client.get("r") == told.encode()


def test_a_large_reply(client: redis.Redis) -> None:
    store_script(client)
    value = b"x" * 300_000
    client.set("large", value)
    client.rpush("list", "a", value)
    for command, expected in (("GET large", value), ("LRANGE list 0 -1", b"a|" + value)):
        words = command.split()
        client.execute_command("AI.SCRIPTEXECUTE", "s", "told", "KEYS", 1, "r", "ARGS", len(words), *words)
        assert client.get("r") == expected


def test_an_error_of_redis_ends_the_run_and_nothing_else(client: redis.Redis) -> None:
    store_script(client)
    client.rpush("list", "x")
    for _ in range(20):  # more often than there are connections that an error could have spoilt
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.execute_command("AI.SCRIPTEXECUTE", "s", "told", "KEYS", 1, "r", "ARGS", 2, "GET", "list")
    assert client.execute_command("AI.SCRIPTEXECUTE", "s", "mark", "KEYS", 1, "k") == b"OK"
    assert client.get("k") == b"1"


def test_databases_swapped_by_a_script(client: redis.Redis, bare: redis.Redis) -> None:
    """What is kept near of one database is not taken for the other's."""
    store_script(client)
    client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
    bare.copy("x", "x", destination_db=1)
    client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)
    bare.copy("s", "s", destination_db=1)
    read = ("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", "AI.TENSORGET", "x", "VALUES")
    values = [b"2"]
    for _ in range(20):
        assert client.execute_command(*read) == [values]
        client.execute_command("AI.SCRIPTEXECUTE", "s", "told", "KEYS", 1, "r", "ARGS", 3, "SWAPDB", "0", "1")
        values = [b"1"] if values == [b"2"] else [b"2"]


def test_a_model_that_waits_for_a_batch_is_run_alone(front_door: FrontDoor, bare: redis.Redis) -> None:
    with patient(front_door.port) as client:
        store_script(client)
        options = ("BATCHSIZE", 8, "MINBATCHSIZE", 4)
        client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", *options, "BLOB", build_onnx_mul())
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        words = ("AI.SCRIPTEXECUTE", "s", "model", "KEYS", 1, "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert client.execute_command(*words) == b"OK"
        assert client.execute_command("AI.TENSORGET", "y", "VALUES") == [b"2", b"4"]
        assert client.execute_command("AI.INFO", "m")[-4:] == [b"calls", 0, b"errors", 0]


@pytest.mark.parametrize("way", ["script", "dag"])
def test_a_script_has_its_callers_rights_and_database(
    way: str, client: redis.Redis, front_door: FrontDoor, bare: redis.Redis
) -> None:
    store_script(client)
    bare.copy("s", "s", destination_db=3)
    words: tuple[str | int, ...] = ("AI.SCRIPTEXECUTE", "s", "mark", "KEYS", 1)
    if way == "dag":
        words = ("AI.DAGEXECUTE", "ROUTING", "r", "|>", *words)
    rights = ("+@all", "~mine:*", "~s")
    client.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "resetkeys", *rights)
    with redis.Redis(port=front_door.port, protocol=2, username="bob", password="pw", db=3) as bob:
        # Before and after somebody else's script ran: what the two do, they do on different connections.
        for _ in range(2):
            assert "NOPERM" in _error(bob, *words, "others")
            assert not _error(bob, *words, "mine:1")
            assert not _error(client, *words, "others")
        client.execute_command("ACL", "SETUSER", "bob", "resetkeys", "~s")
        assert "NOPERM" in _error(bob, *words, "mine:2")
    client.execute_command("ACL", "DELUSER", "bob")
    with redis.Redis(port=front_door.port, db=3) as third:
        assert third.keys("mine:*") == [b"mine:1"]
        assert not third.exists("others")
    assert client.get("others") == b"1"
    assert not client.keys("mine:*")


def _error(client: redis.Redis, *words: str | int) -> str:
    """The error that a command is answered, or that its one operation is; empty without one."""
    try:
        reply = client.execute_command(*words)
    except redis.ResponseError as error:
        return str(error)
    return str(reply[0]) if isinstance(reply, list) and isinstance(reply[0], redis.ResponseError) else ""


def _one_worker(redis_server: RedisServer, **settings: int) -> Config:
    """One worker for scripts, which may take long: the machine may be busy."""
    return Config(
        redis=redis_server.url,
        port=0,
        threads_per_queue=1,
        drain_timeout_s=5,
        script_execution_timeout_ms=60_000,
        **settings,
    )


@pytest.fixture
def single(redis_server: RedisServer, bare: redis.Redis) -> Iterator[FrontDoor]:
    """A server with one worker for scripts, and with metrics."""
    server = FrontDoor(_one_worker(redis_server, http=free_port()))
    yield server
    server.stop()


WAITING = 'redisai_script_waiting{queue="CPU"}'


def leave(client: Conversation) -> None:
    """As one whose process has died: not even its answers are awaited."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@one_front_door
@pytest.mark.parametrize(
    "command",
    [
        "AI.SCRIPTEXECUTE s mark KEYS 1 ran",
        "AI.DAGEXECUTE ROUTING r |> AI.SCRIPTEXECUTE s mark KEYS 1 ran",
    ],
    ids=["script", "dag"],
)
def test_a_queued_script_of_a_lost_client_is_dropped(command: str, single: FrontDoor, bare: redis.Redis) -> None:
    with patient(single.port) as client, talk(single.port) as busy:
        store_script(client)
        busy.send("AI.SCRIPTEXECUTE s gate KEYS 1 open")
        until(lambda: bare.exists("open:reached"), "the first script never ran")
        with talk(single.port) as leaving:
            leaving.send(command)
            until(lambda: single.figure(WAITING) == 1, "the second script never waited")
            leave(leaving)
        until(lambda: single.figure(WAITING) == 0, "the second script was not dropped")
        client.set("open", "1")
        assert busy.reply() == "+OK"
        assert client.execute_command("AI.INFO", "s")[-4:] == [b"calls", 1, b"errors", 0]
        assert not bare.exists("ran")


@one_front_door
def test_a_full_queue_of_scripts_refuses(redis_server: RedisServer, bare: redis.Redis) -> None:
    server = FrontDoor(_one_worker(redis_server, queue_limit=1))
    try:
        with (
            patient(server.port) as client,
            talk(server.port) as first,
            talk(server.port) as second,
            talk(server.port) as third,
        ):
            store_script(client)
            first.send("AI.SCRIPTEXECUTE s gate KEYS 1 open")
            until(lambda: bare.exists("open:reached"), "the first script never ran")
            runs = [second, third]
            for run in runs:
                run.send("AI.SCRIPTEXECUTE s mark KEYS 1 ran", "PING")
            # Which of the two came first is not known; the other is answered at once.
            readable, _, _ = select.select([run.socket for run in runs], [], [], 20)
            (refused,) = [run for run in runs if run.socket in readable]
            assert refused.reply() == "-ERR the run queue of scripts is full: 1 runs are waiting"
            assert refused.reply() == "+PONG"
            client.set("open", "1")
            assert first.reply() == "+OK"
            assert next(run for run in runs if run is not refused).reply() == "+OK"
            assert client.execute_command("AI.INFO", "s")[-4:] == [b"calls", 2, b"errors", 0]
    finally:
        server.stop()


def test_a_running_script_of_a_lost_client_is_finished(single: FrontDoor, bare: redis.Redis) -> None:
    """And stores no output; but what it does in Redis itself is done to the end, as in RedisAI."""
    with patient(single.port) as client:
        store_script(client)
        with talk(single.port) as leaving:
            leaving.send("AI.SCRIPTEXECUTE s gate KEYS 1 open")
            until(lambda: bare.exists("open:reached"), "the script never ran")
            leave(leaving)
        until(lambda: single.figure("redisai_clients") == 1, "the client has not left")
        client.set("open", "1")
        until(lambda: client.execute_command("AI.INFO", "s")[-3] == 1, "the script never ended")
        assert client.execute_command("AI.INFO", "s")[-4:] == [b"calls", 1, b"errors", 0]
        assert client.execute_command("AI.TENSORGET", "open:passed", "VALUES") == [b"1"]
