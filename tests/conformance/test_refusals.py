"""What Redis, its ACL and the frameworks refuse, as clients of AI commands see it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import Conversation, talk
from tests.conformance.transcript import matches
from tests.support import FrontDoor, RedisServer

OOM = "-OOM command not allowed when used memory > 'maxmemory'."
READONLY = "-READONLY You can't write against a read only replica."


@pytest.fixture
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Conversation]:
    with talk(front_door.port) as conversation:
        yield conversation


def test_no_memory(client: Conversation, bare: redis.Redis) -> None:
    client.given("AI.TENSORSET t FLOAT 1 2 VALUES 1 2", "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>")
    bare.config_set("maxmemory", 1)
    try:
        assert client.ask("AI.TENSORSET u FLOAT 1 VALUES 1") == OOM
        assert client.ask("AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u") == OOM
        assert client.ask("AI.MODELSTORE n ONNX CPU BLOB <onnx_mul>") == OOM
        assert client.ask("AI.SCRIPTSET s CPU SOURCE <old_script>") == OOM
        dag = "LOAD 1 t |> AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u |> AI.TENSORGET u VALUES"
        assert client.ask(f"AI.DAGEXECUTE_RO {dag}") == '[+OK, ["2", "4"]]'
        assert client.ask("AI.TENSORGET t VALUES") == '["1", "2"]'
        assert client.ask("AI.MODELDEL m") == "+OK"
    finally:
        bare.config_set("maxmemory", 0)
    assert client.ask("EXISTS u n s") == ":0"


def test_read_only_replica(redis_server: RedisServer, bare: redis.Redis, tmp_path: Path) -> None:
    delay = bare.config_get("repl-diskless-sync-delay")
    bare.config_set("repl-diskless-sync-delay", 0)
    with redis.Redis(port=redis_server.port) as primary:
        replica = RedisServer(redis_server.binary, tmp_path, "--replicaof", "127.0.0.1", str(redis_server.port))
        server = FrontDoor(Config(redis=replica.url, port=0))
        try:
            with talk(server.port) as client, redis.Redis(port=replica.port) as copy:
                while copy.info("replication")["master_link_status"] != "up":
                    pass
                with talk(server.port) as writer:
                    assert writer.ask("AI.TENSORSET t FLOAT 1 VALUES 1") == READONLY
                _store_through_another_door(redis_server)
                primary.set("last", 1)  # WAIT is for what its own connection has written, and for all before that
                assert primary.wait(1, 10_000) == 1
                assert client.ask("AI.TENSORGET t VALUES") == '["1", "2"]'
                assert client.ask("AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u") == READONLY
                assert client.ask("AI.MODELSTORE n ONNX CPU BLOB <onnx_mul>") == READONLY
                assert client.ask("AI.MODELDEL m") == READONLY
                dag = "LOAD 1 t |> AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u |> AI.TENSORGET u VALUES"
                assert client.ask(f"AI.DAGEXECUTE_RO {dag}") == '[+OK, ["2", "4"]]'
                assert client.ask("AI.CONFIG GET MODEL_CHUNK_SIZE") == ":535822336"
                assert client.ask("AI.CONFIG MODEL_CHUNK_SIZE 535822336") == "+OK"
                assert client.ask("AI.INFO m RESETSTAT") == "+OK"
        finally:
            server.stop()
            replica.stop()
            bare.config_set("repl-diskless-sync-delay", delay["repl-diskless-sync-delay"])


def _store_through_another_door(redis_server: RedisServer) -> None:
    server = FrontDoor(Config(redis=redis_server.url, port=0))
    try:
        with talk(server.port) as client:
            client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.TENSORSET t FLOAT 1 2 VALUES 1 2")
    finally:
        server.stop()


@pytest.fixture
def alice(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Conversation]:
    """A user of all commands, on keys that begin with `own:`."""
    bare.execute_command("ACL", "SETUSER", "alice", "reset", "on", ">pw", "~own:*", "+@all")
    try:
        with talk(front_door.port) as conversation:
            conversation.given("AUTH alice pw")
            yield conversation
    finally:
        bare.execute_command("ACL", "DELUSER", "alice")


def test_keys_of_others(alice: Conversation, client: Conversation) -> None:
    client.given(
        "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
        "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>",
        "AI.SCRIPTSTORE s CPU ENTRY_POINTS 1 norm SOURCE <script>",
    )
    alice.given(
        "AI.TENSORSET own:t FLOAT 1 2 VALUES 1 2",
        "AI.MODELSTORE own:m ONNX CPU BLOB <onnx_mul>",
        "AI.MODELEXECUTE own:m INPUTS 1 own:t OUTPUTS 1 own:u",
        "AI.SCRIPTSTORE own:s CPU ENTRY_POINTS 1 run SOURCE <lib_script>",
    )
    for refused in (
        "AI.TENSORSET t FLOAT 1 VALUES 1",
        "AI.TENSORGET t",
        "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>",
        "AI.MODELGET m",
        "AI.MODELDEL m",
        "AI.SCRIPTSET s CPU SOURCE <old_script>",
        "AI.SCRIPTGET s",
        "AI.SCRIPTDEL s",
        "AI.INFO m",
        "AI.MODELEXECUTE m INPUTS 1 own:t OUTPUTS 1 own:u",
        "AI.MODELEXECUTE own:m INPUTS 1 t OUTPUTS 1 own:u",
        "AI.MODELEXECUTE own:m INPUTS 1 own:t OUTPUTS 1 u",
        "AI.SCRIPTEXECUTE s norm INPUTS 1 own:t",
        "AI.SCRIPTEXECUTE own:s run INPUTS 1 t",
        "AI.DAGEXECUTE LOAD 1 t |> AI.TENSORGET t",
        "AI.DAGEXECUTE LOAD 1 own:t |> AI.MODELEXECUTE m INPUTS 1 own:t OUTPUTS 1 x",
        "AI.DAGEXECUTE PERSIST 1 u |> AI.TENSORSET u FLOAT 1",
    ):
        reply = alice.ask(refused)
        assert reply.startswith("-NOPERM"), f"{refused}: {reply}"
    # A script has the rights of its caller.
    reply = alice.ask("AI.SCRIPTEXECUTE own:s run INPUTS 0 ARGS 2 GET t OUTPUTS 1 own:u")
    assert "NOPERM" in reply or "permissions" in reply or "permitted" in reply, reply
    assert alice.ask("AI._MODELSCAN") == '[["own:m", ""]]'
    assert client.ask("EXISTS u") == ":0"


def test_frameworks_see_nothing_of_users_who_may_not_store(
    alice: Conversation, client: Conversation, bare: redis.Redis
) -> None:
    """Loading a model and compiling a script cost time, and may cost the process: Redis decides before."""
    broken = ("AI.MODELSTORE {} ONNX CPU BLOB x", "AI.MODELSET {} TORCH CPU BLOB x", "AI.SCRIPTSET {} CPU SOURCE x")
    for words in broken:
        assert alice.ask(words.format("theirs")).startswith("-NOPERM")
        reply = alice.ask(words.format("own:k"))
        assert reply.startswith("-")
        assert "NOPERM" not in reply
    bare.execute_command("ACL", "SETUSER", "alice", "-hset")
    for words in broken:
        assert alice.ask(words.format("own:k")).startswith("-NOPERM")
    assert bare.keys("*") == []  # the rehearsal left nothing


def test_rights_taken_away_while_connected(alice: Conversation, bare: redis.Redis) -> None:
    alice.given("AI.TENSORSET own:t FLOAT 1 2 VALUES 1 2", "AI.MODELSTORE own:m ONNX CPU BLOB <onnx_mul>")
    run = "AI.MODELEXECUTE own:m INPUTS 1 own:t OUTPUTS 1 own:u"
    alice.given(run, run)  # the second one may be answered from what is near
    bare.execute_command("ACL", "SETUSER", "alice", "resetkeys", "~other:*")
    assert alice.ask("AI.TENSORGET own:t").startswith("-NOPERM")
    assert alice.ask("AI.TENSORSET own:t FLOAT 1 VALUES 1").startswith("-NOPERM")
    assert alice.ask(run).startswith("-NOPERM")
    assert bare.execute_command("GETRANGE", "own:t", 0, 0) != b""


def test_a_deleted_user_has_no_rights_any_more(alice: Conversation, bare: redis.Redis) -> None:
    alice.given("AI.TENSORSET own:t FLOAT 1 2 VALUES 1 2", "AI.TENSORGET own:t")
    bare.execute_command("ACL", "DELUSER", "alice")
    # Redis ends the user's connections, ours to it among them, and lets us open no new ones.
    with contextlib.suppress(ConnectionError):  # sent before the server read that its connection was ended
        for _ in range(3):
            reply = alice.ask("AI.TENSORGET own:t")
            assert reply.startswith("-WRONGPASS"), reply


@pytest.mark.parametrize("missing", ["-eval -evalsha -script", "-@scripting", "-client", "-touch"])
def test_users_without_some_commands(
    missing: str, front_door: FrontDoor, bare: redis.Redis, client: Conversation
) -> None:
    bare.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", "~*", "+@all", *missing.split())
    bare.rpush("list", "x")
    try:
        with talk(front_door.port) as bob:
            bob.given(
                "AUTH bob pw",
                "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
                "AI.TENSORSET t FLOAT 1 2 VALUES 3 4",
                "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>",
                "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u",
                "AI.MODELEXECUTE m INPUTS 1 u OUTPUTS 1 u",
                "AI.DAGEXECUTE LOAD 1 u PERSIST 1 v |> AI.MODELEXECUTE m INPUTS 1 u OUTPUTS 1 v",
            )
            assert bob.ask("AI.TENSORGET v VALUES") == '["24", "32"]'
            wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value"
            assert bob.ask("AI.TENSORSET list FLOAT 1 VALUES 1") == wrong
            assert bob.ask("AI.MODELEXECUTE m INPUTS 1 u OUTPUTS 1 list") == wrong
            bob.given("MULTI")
            bob.send("AI.TENSORSET w FLOAT 1 VALUES 7", "AI.TENSORSET list FLOAT 1 VALUES 1", "EXEC")
            assert [bob.reply() for _ in range(3)] == ["+QUEUED", "+QUEUED", f"[+OK, {wrong}]"]
            assert client.ask("AI.TENSORGET w VALUES") == '["7"]'
        assert bare.lrange("list", 0, -1) == [b"x"]
    finally:
        bare.execute_command("ACL", "DELUSER", "bob")


def test_a_run_that_takes_too_long(redis_server: RedisServer, bare: redis.Redis) -> None:
    server = FrontDoor(Config(redis=redis_server.url, port=0, model_execution_timeout_ms=1000))
    try:
        with talk(server.port) as client:
            client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_endless>", "AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
            reply = client.ask("AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y")
            assert matches(reply, "-...Exiting due to terminate flag being set to true..."), reply
            assert client.ask("AI.INFO m").endswith('"calls", :1, "errors", :1]')
    finally:
        server.stop()


_WITHOUT_A_FRAMEWORK = """
import sys
from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.support import FrontDoor

server = FrontDoor(Config(redis=sys.argv[1], port=0))
with talk(server.port) as client:
    for command in ("AI.MODELSTORE m ONNX CPU BLOB <garbage>", "AI.CONFIG LOADBACKEND ONNX x", "PING", "EXISTS m"):
        print(client.ask(command))
server.stop()
"""


def test_a_framework_that_is_not_there(redis_server: RedisServer, bare: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so: not found')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", _WITHOUT_A_FRAMEWORK, redis_server.url]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True)
    store, load, *rest = [line for line in result.stdout.splitlines() if line[:1] in "+-:"]
    assert matches(store, "-ERR Could not load backend...pip install '.[onnx]'..."), store
    assert matches(load, "-ERR error loading backend..."), load
    assert rest == ["+PONG", ":0"]
