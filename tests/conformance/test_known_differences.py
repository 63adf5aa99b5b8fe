"""docs/known-differences.toml: each row is tested, by an example that names it or by a test named there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.conformance.transcript import matches, read_blocks
from tests.support import FrontDoor, RedisServer

ROOT = Path(__file__).parents[2]
ROWS = tomllib.loads((ROOT / "docs" / "known-differences.toml").read_text())["difference"]
USED = {step.difference for block in read_blocks() for step in block.steps if step.difference is not None}


def test_examples_name_rows_that_exist() -> None:
    assert {row["id"] for row in ROWS} >= USED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["id"]))
def test_row_is_complete_and_tested(row: dict[str, str | list[str]]) -> None:
    assert all(row[name] for name in ("source", "redisai", "ours", "why"))
    tests = row.get("tests", [])
    assert tests or row["id"] in USED, "no example and no test"
    for test in tests:
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), f"there is no {test}"


def test_pages_are_what_the_tables_say() -> None:
    command = [sys.executable, ROOT / "scripts" / "gen_compatibility.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_keyspace_events(front_door: FrontDoor, bare: redis.Redis) -> None:
    before = bare.config_get("notify-keyspace-events")["notify-keyspace-events"]
    bare.config_set("notify-keyspace-events", "KEA")
    try:
        with talk(front_door.port) as listener, talk(front_door.port) as client:
            assert listener.ask("SUBSCRIBE __keyspace@0__:t") == '["subscribe", "__keyspace@0__:t", :1]'
            client.given("AI.TENSORSET t FLOAT 1 VALUES 1")
            assert listener.reply() == '["message", "__keyspace@0__:t", "set"]'
    finally:
        bare.config_set("notify-keyspace-events", before)


def test_redis_sees_plain_commands(front_door: FrontDoor, bare: redis.Redis) -> None:
    with bare.monitor() as monitor, talk(front_door.port) as client:
        client.given(
            "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>",
            "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
            "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u",
            "AI.TENSORGET u VALUES",
            "ECHO end",
        )
        seen = []
        while not seen or seen[-1] != "ECHO":
            seen.append(monitor.next_command()["command"].split()[0].upper())
    assert not [name for name in seen if name.startswith("AI.")]
    assert {"HSET", "SET"} <= set(seen)


def test_reload_keeps_everything(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given(
            "AI.MODELSTORE m ONNX CPU TAG v1 BLOB <onnx_mul>",
            "AI.SCRIPTSET s CPU SOURCE <old_script>",
            "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
        )
        bare.hset("m", "blob:0", b"no model any more")
        bare.hset("m", "id", "another")
        assert bare.execute_command("DEBUG", "RELOAD") in (b"OK", True)
        assert client.ask("AI.SCRIPTGET s SOURCE") == '"<old_script>"'
        assert client.ask("AI.TENSORGET t VALUES") == '["1", "2"]'
        assert client.ask("AI.MODELGET m BLOB") == '"no model any more"'
        assert client.ask("AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u").startswith("-")
        client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u")


def test_modelstore_keeps_a_key_of_another_type(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("SET k value")
        reply = client.ask("AI.MODELSTORE k ONNX CPU BLOB <onnx_mul>")
        assert reply == "-WRONGTYPE Operation against a key holding the wrong kind of value"
    assert bare.get("k") == b"value"
    assert bare.dbsize() == 1


def test_sequence_output_in_a_dag(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_iris_zipmap>", "AI.TENSORSET x FLOAT 1 4 VALUES 5 3 2 0")
        dag = "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 2 label maps |> AI.TENSORGET maps"
        assert client.ask(dag) == "[+OK, +NA]"


def test_endless_script_is_stopped(redis_server: RedisServer, bare: redis.Redis) -> None:
    server = FrontDoor(Config(redis=redis_server.url, port=0, script_execution_timeout_ms=300))
    try:
        with talk(server.port) as client:
            client.given("AI.SCRIPTSTORE s CPU ENTRY_POINTS 1 forever SOURCE <endless_script>")
            reply = client.ask("AI.SCRIPTEXECUTE s forever INPUTS 0 OUTPUTS 1 x")
            assert matches(reply, "-ERR script ran longer than SCRIPT_EXECUTION_TIMEOUT (300 ms)...")
            assert client.ask("EXISTS x") == ":0"
    finally:
        server.stop()


def test_acl_knows_plain_commands(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        assert client.ask("ACL SETUSER eve +ai.tensorset").startswith("-ERR Error in ACL SETUSER modifier")


_LOAD_IN_A_NEW_PROCESS = """
import sys
from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.support import FrontDoor

server = FrontDoor(Config(redis=sys.argv[1], port=0))
with talk(server.port) as client:
    for path in ("/no/such/file.so", "x"):
        print(client.ask(f"AI.CONFIG LOADBACKEND ONNX {path}"))
server.stop()
"""


def test_loadbackend_does_not_use_the_path(front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>")
        # Loaded by now, which RedisAI answers in the same way, whatever the path.
        assert client.ask("AI.CONFIG LOADBACKEND ONNX /no/such/file.so") == "-ERR error loading backend"
    # A process in which nothing is loaded yet imports the plugin, whatever the path says.
    command = [sys.executable, "-c", _LOAD_IN_A_NEW_PROCESS, redis_server.url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True)
    replies = [line for line in result.stdout.splitlines() if line[:1] in "+-"]
    assert replies == ["+OK", "-ERR error loading backend"]


def test_hello_is_redis_own(front_door: FrontDoor, redis_server: RedisServer) -> None:
    with talk(front_door.port) as client, talk(redis_server.port) as other:
        replies = [speaker.ask("HELLO 2").split(", ") for speaker in (client, other)]
        for reply in replies:
            reply[reply.index('"id"') + 1] = ":id"
        assert replies[0] == replies[1]
