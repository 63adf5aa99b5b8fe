"""AI.INFO and AI.CONFIG, and keys that go without a command of ours. Source: spec 05."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from redisai_py.ops import sweep as housekeeping
from scripts.make_models import build_onnx_iris_zipmap, build_onnx_large_output, build_onnx_mul
from tests.conformance.running import SCRIPT, counters, info, run, sections, store, tensor
from tests.support import FrontDoor, RedisServer, front_doors, long_model, one_front_door
from tests.waiting import until

NO_INFO = "cannot find run info for key"


# -- AI.INFO -----------------------------------------------------------------------------------------------------------


def test_the_18_items_in_order(client: redis.Redis) -> None:
    store(client, "net", "TAG", "v7")
    reply = client.execute_command("AI.INFO", "net")
    assert reply == [
        *(b"key", b"net", b"type", b"MODEL", b"backend", b"ONNX", b"device", b"CPU", b"tag", b"v7"),
        *(b"duration", 0, b"samples", 0, b"calls", 0, b"errors", 0),
    ]
    assert client.execute_command("AI.INFO", "net", "WHATEVER") == reply


def test_counts_after_a_sequence_of_runs(client: redis.Redis) -> None:
    store(client)
    tensor(client, "in", (1, 2), (3, 4), (5, 6))
    tensor(client, "bad", (1, 2, 3))
    began = time.monotonic()
    for _ in range(4):
        assert run(client) == b"OK"
    for key in ("bad", "nosuch"):  # the second is a failed look-up, which counts nothing
        with pytest.raises(redis.ResponseError):
            run(client, inputs=key)
    with pytest.raises(redis.ResponseError, match="INPUTS"):
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 2, "in", "in", "OUTPUTS", 1, "out")
    fields = info(client)
    assert (fields["calls"], fields["errors"], fields["samples"]) == (5, 1, 12)
    assert 0 < fields["duration"] < 1e6 * (time.monotonic() - began)


def test_old_and_new_run_commands_count_alike(client: redis.Redis) -> None:
    store(client)
    tensor(client, "in", (1, 2))
    client.execute_command("AI.MODELRUN", "net", "INPUTS", "in", "OUTPUTS", "out")
    client.execute_command("AI.DAGRUN", "LOAD", 1, "in", "|>", "AI.MODELRUN", "net", "INPUTS", "in", "OUTPUTS", "o")
    run(client)
    assert counters(client) == (3, 0, 3)


def test_a_failed_dag_counts_what_ran_and_not_what_did_not(client: redis.Redis) -> None:
    store(client)
    store(client, "after")
    tensor(client, "in", (1, 2))
    tensor(client, "bad", (1, 2, 3))
    replies = client.execute_command(
        *("AI.DAGEXECUTE", "LOAD", 2, "in", "bad"),
        *("|>", "AI.MODELEXECUTE", "net", "INPUTS", 1, "in", "OUTPUTS", 1, "o1"),
        *("|>", "AI.MODELEXECUTE", "net", "INPUTS", 1, "bad", "OUTPUTS", 1, "o2"),
        *("|>", "AI.MODELEXECUTE", "after", "INPUTS", 1, "in", "OUTPUTS", 1, "o3"),
    )
    assert [type(reply).__name__ for reply in replies] == ["bytes", "ResponseError", "bytes"]
    assert replies[2] == b"NA"
    assert counters(client) == (2, 1, 1)
    assert counters(client, "after") == (0, 0, 0)


def test_a_run_whose_output_is_no_tensor_counts_once_and_no_samples(client: redis.Redis) -> None:
    pytest.importorskip("skl2onnx")
    store(client, "iris", blob=build_onnx_iris_zipmap())
    tensor(client, "in", (5.1, 3.5, 1.4, 0.2))
    for _ in range(3):
        client.execute_command("AI.MODELEXECUTE", "iris", "INPUTS", 1, "in", "OUTPUTS", 2, "label", "scores")
    assert counters(client, "iris") == (3, 0, 3)  # the label is the first output
    assert client.exists("label", "scores") == 1


def test_a_run_whose_output_is_large_or_refused_counts_once(client: redis.Redis) -> None:
    store(client, "wide", blob=build_onnx_large_output(20_000))
    client.execute_command("AI.TENSORSET", "in", "FLOAT", 1, "VALUES", 3)
    client.rpush("list", "x")
    for _ in range(3):
        assert run(client, "wide") == b"OK"
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            run(client, "wide", output="list")
    assert counters(client, "wide") == (6, 0, 120_000)
    assert client.execute_command("AI.TENSORGET", "out", "META") == [b"dtype", b"FLOAT", b"shape", [20_000]]


def test_resetstat(client: redis.Redis) -> None:
    store(client)
    tensor(client, "in", (1, 2))
    run(client)
    assert client.execute_command("AI.INFO", "net", "resetstat") == b"OK"
    assert counters(client) == (0, 0, 0)
    assert info(client)["duration"] == 0
    run(client)
    assert counters(client) == (1, 0, 1)


def test_every_store_begins_at_zero(client: redis.Redis) -> None:
    store(client, "net", "TAG", "one")
    tensor(client, "in", (1, 2))
    run(client)
    store(client, "net", "TAG", "two")
    assert counters(client) == (0, 0, 0)
    assert info(client)["tag"] == b"two"


@pytest.mark.parametrize("make", ["nothing", "tensor", "string", "list", "hash", "deleted"])
def test_no_run_info(client: redis.Redis, make: str) -> None:
    if make == "tensor":
        tensor(client, "net", (1, 2))
    elif make == "deleted":
        store(client)
        client.execute_command("AI.MODELDEL", "net")
    elif make != "nothing":
        {"string": client.set, "list": client.rpush}.get(make, lambda key, _: client.hset(key, "f", "v"))("net", "x")
    for words in ((), ("RESETSTAT",), ("FULL",)):
        with pytest.raises(redis.ResponseError, match=f"^{NO_INFO}$"):
            client.execute_command("AI.INFO", "net", *words)


def test_a_key_in_another_database_is_another_key(client: redis.Redis, front_door: FrontDoor) -> None:
    store(client)
    with redis.Redis(port=front_door.port, db=1) as other, pytest.raises(redis.ResponseError, match=NO_INFO):
        other.execute_command("AI.INFO", "net")


def test_scripts(client: redis.Redis) -> None:
    pytest.importorskip("torch")
    client.execute_command(
        "AI.SCRIPTSTORE", "s", "CPU", "TAG", "t", "ENTRY_POINTS", 2, "double", "boom", "SOURCE", SCRIPT
    )
    tensor(client, "in", (1, 2), (3, 4))
    for _ in range(2):
        client.execute_command("AI.SCRIPTEXECUTE", "s", "double", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
    with pytest.raises(redis.ResponseError, match="boom"):
        client.execute_command("AI.SCRIPTEXECUTE", "s", "boom", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
    fields = info(client, "s", "FULL")
    assert fields["duration"] > 0
    assert {name: fields[name] for name in list(fields)[:9]} == {
        "key": b"s", "type": b"SCRIPT", "backend": b"TORCH", "device": b"CPU", "tag": b"t",
        "duration": fields["duration"], "samples": -1, "calls": 3, "errors": 1,
    }  # fmt: skip
    assert b"boom" in fields["last_error"]
    assert client.execute_command("AI.INFO", "s", "RESETSTAT") == b"OK"
    assert counters(client, "s") == (0, 0, -1)


def test_full_tells_how_it_ran(client: redis.Redis) -> None:
    store(client)
    tensor(client, "in", (1, 2), (3, 4), (5, 6))
    tensor(client, "bad", (1, 2, 3))
    began = time.monotonic()
    for _ in range(3):
        run(client)
    with pytest.raises(redis.ResponseError):
        run(client, inputs="bad")
    fields = info(client, "net", "FULL")
    elapsed_us = 1e6 * (time.monotonic() - began)
    assert list(fields)[:9] == ["key", "type", "backend", "device", "tag", "duration", "samples", "calls", "errors"]
    assert (fields["loaded"], fields["loaded_bytes"], fields["unfinished"]) == (1, len(build_onnx_mul()), 0)
    assert (fields["loads"], fields["batches"]) == (1, 3)
    assert fields["batch_rows"] == [3, 3]
    for what in ("queue_time", "run_time"):
        p50, p95, p99 = (fields[f"{what}_{quantile}_us"] for quantile in ("p50", "p95", "p99"))
        assert 0 <= p50 <= p95 <= p99 < 2 * elapsed_us  # the upper ends of buckets
    assert b"Got invalid dimensions" in fields["last_error"]


@one_front_door
def test_a_batch_adds_its_whole_duration_to_each_member(client: redis.Redis, front_door: FrontDoor) -> None:
    store(client, "net", "BATCHSIZE", 8, "MINBATCHSIZE", 3)
    tensor(client, "in", (1, 2))
    others = [redis.Redis(port=front_door.port) for _ in range(3)]
    connections = [other.connection_pool.get_connection() for other in others]
    for _ in range(3):  # twice to prove that the model may be merged
        client.execute_command("AI.INFO", "net", "RESETSTAT")
        for at, connection in enumerate(connections):
            connection.send_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "in", "OUTPUTS", 1, f"out{at}")
        assert [connection.read_response() for connection in connections] == [b"OK"] * 3
    for connection in connections:
        connection.disconnect()
    fields = info(client, "net", "FULL")
    assert (fields["calls"], fields["samples"], fields["batches"]) == (3, 3, 1)
    assert fields["duration"] % 3 == 0
    assert fields["batch_rows"] == [3, 1]


@one_front_door
def test_a_run_that_timed_out_in_the_queue_is_not_counted(client: redis.Redis) -> None:
    store(client, "net", "BATCHSIZE", 8, "MINBATCHSIZE", 3)
    tensor(client, "in", (1, 2))
    words = ("AI.MODELEXECUTE", "net", "INPUTS", 1, "in", "OUTPUTS", 1, "out", "TIMEOUT", 1)
    assert client.execute_command(*words) == b"TIMEDOUT"
    assert counters(client) == (0, 0, 0)


def test_info_and_config_take_part_in_transactions(client: redis.Redis) -> None:
    store(client)
    client.rpush("list", "x")
    pipeline = client.pipeline(transaction=True)
    pipeline.execute_command("AI.INFO", "net")
    pipeline.execute_command("AI.INFO", "list")
    pipeline.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE")
    pipeline.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 100_000)
    pipeline.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE")
    pipeline.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336)
    replies = pipeline.execute(raise_on_error=False)
    assert replies[0][:4] == [b"key", b"net", b"type", b"MODEL"]
    assert str(replies[1]) == NO_INFO
    assert replies[2:] == [535822336, b"OK", 100_000, b"OK"]


# -- AI.CONFIG ---------------------------------------------------------------------------------------------------------


def test_settings(redis_server: RedisServer, bare: redis.Redis) -> None:
    # A server of its own: the settings are the process's, and other tests change those of the shared one.
    server = FrontDoor(Config(redis=redis_server.url, port=0))
    try:
        with redis.Redis(port=server.port, protocol=2) as client:
            assert client.execute_command("AI.CONFIG", "GET", "BACKENDSPATH").endswith(b"/backends")
            assert client.execute_command("AI.CONFIG", "GET", "model_chunk_size") == 535822336
            assert client.execute_command("AI.CONFIG", "GET", "THREADS_PER_QUEUE") is None
            assert client.execute_command("AI.CONFIG", "BACKENDSPATH", "/somewhere", "more") == b"OK"
            assert client.execute_command("AI.CONFIG", "GET", "BACKENDSPATH", "more") == b"/somewhere"
            assert client.execute_command("AI.CONFIG", "BACKENDSPATH", b"/a\xff") == b"OK"
            assert client.execute_command("AI.CONFIG", "GET", "BACKENDSPATH") == b"/a\xff"
            assert client.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 65536) == b"OK"
            assert client.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 65536
            model = long_model()
            assert client.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", "BLOB", model) == b"OK"
            assert len([field for field in client.hkeys("net") if field.startswith(b"blob:")]) == 4
            assert client.execute_command("AI.MODELGET", "net", "BLOB") == [
                model[at : at + 65536] for at in range(0, len(model), 65536)
            ]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("AI.CONFIG", "wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG GET", "wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG LOADBACKEND ONNX", "wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG LOADBACKEND NOSUCH path", "unsupported backend"),
        ("AI.CONFIG BACKENDSPATH", "BACKENDSPATH: missing path argument"),
        ("AI.CONFIG MODEL_CHUNK_SIZE", "MODEL_CHUNK_SIZE: missing chunk size"),
        ("AI.CONFIG MODEL_CHUNK_SIZE 0", "MODEL_CHUNK_SIZE: invalid chunk size"),
        ("AI.CONFIG MODEL_CHUNK_SIZE 1e3", "MODEL_CHUNK_SIZE: invalid chunk size"),
        (
            "AI.CONFIG MODEL_CHUNK_SIZE 65535",
            "MODEL_CHUNK_SIZE: 65535 is less than the smallest chunk size, 65536",
        ),
        ("AI.CONFIG SET MODEL_CHUNK_SIZE 5", "unsupported subcommand"),
        ("AI.INFO", "wrong number of arguments for 'ai.info' command"),
        ("AI.INFO a b c", "wrong number of arguments for 'ai.info' command"),
    ],
)
def test_errors(client: redis.Redis, words: str, text: str) -> None:
    with pytest.raises(redis.ResponseError) as caught:
        client.execute_command(*words.split())
    assert str(caught.value) == text


def test_a_backend_is_loaded_once(client: redis.Redis) -> None:
    store(client)  # so ONNX is loaded by now
    with pytest.raises(redis.ResponseError, match=r"^error loading backend$"):
        client.execute_command("AI.CONFIG", "LOADBACKEND", "onnx", "redisai_onnxruntime/redisai_onnxruntime.so")


def test_changing_settings_needs_the_right_to_config(client: redis.Redis, front_door: FrontDoor) -> None:
    changes = (("MODEL_CHUNK_SIZE", 100_000), ("BACKENDSPATH", "/x"), ("LOADBACKEND", "TORCH", "x"))
    for rights in (("-config",), ("-config", "+config|get")):
        client.execute_command("ACL", "SETUSER", "reader", "on", "reset", "on", ">pw", "~*", "+@all", *rights)
        with redis.Redis(port=front_door.port, username="reader", password="pw", protocol=2) as reader:
            assert reader.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 535822336
            for words in changes:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    reader.execute_command("AI.CONFIG", *words)
                if words[0] != "LOADBACKEND":
                    pipeline = reader.pipeline(transaction=True)
                    pipeline.execute_command("AI.CONFIG", *words)
                    with pytest.raises(redis.ResponseError, match=r"permission|EXECABORT"):
                        pipeline.execute()
            assert reader.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 535822336
    client.execute_command("ACL", "DELUSER", "reader")


def test_changing_settings_needs_no_other_right_than_config_set(client: redis.Redis, front_door: FrontDoor) -> None:
    client.execute_command("ACL", "SETUSER", "setter", "on", ">pw", "+config|set", "+multi", "+exec", "+ping")
    before = client.config_get()
    with redis.Redis(port=front_door.port, username="setter", password="pw", protocol=2) as setter:
        assert setter.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 100_000) == b"OK"
        pipeline = setter.pipeline(transaction=True)
        pipeline.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 535822336)
        assert pipeline.execute() == [b"OK"]
    assert client.config_get() == before, "Redis's own settings are left alone"
    client.execute_command("ACL", "DELUSER", "setter")


def test_run_info_needs_the_right_to_the_key(client: redis.Redis, front_door: FrontDoor) -> None:
    store(client)
    client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~other:*", "+@all")
    with (
        redis.Redis(port=front_door.port, username="other", password="pw", protocol=2) as other,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        other.execute_command("AI.INFO", "net", "RESETSTAT")
    client.execute_command("ACL", "DELUSER", "other")


# -- keys that go without a command of ours ----------------------------------------------------------------------------


@pytest.fixture
def sweeping(redis_server: RedisServer, bare: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A client of a server that looks for deleted models all the time."""
    if front_doors() > 1:
        pytest.skip("needs the server in this process")
    monkeypatch.setattr(housekeeping, "INTERVAL_S", 0.02)
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    with redis.Redis(port=server.port, protocol=2) as client:
        yield client
    server.stop()


@pytest.mark.parametrize("how", ["DEL net", "SET net x", "FLUSHALL", "RENAME net other", "PEXPIRE net 1"])
def test_a_model_whose_key_goes_leaves_memory(sweeping: redis.Redis, bare: redis.Redis, how: str) -> None:
    store(sweeping)
    store(sweeping, "stays")
    bare.copy("stays", "twin")
    tensor(sweeping, "in", (1, 2))
    run(sweeping)
    assert info(sweeping, "net", "FULL")["loaded"] == 1
    bare.execute_command(*how.split())
    expected = 0 if how == "FLUSHALL" else len(build_onnx_mul())
    until(lambda: int(sections(sweeping, "ai")["ai_backends_info"]["ai_onnxruntime_memory"]) == expected)
    if how.startswith("RENAME"):  # it is loaded again when it is asked for
        assert run(sweeping, "other") == b"OK"
        assert counters(sweeping, "other") == (2, 0, 2)


def test_a_copy_keeps_the_model(sweeping: redis.Redis) -> None:
    store(sweeping)
    sweeping.copy("net", "twin")
    tensor(sweeping, "in", (1, 2))
    sweeping.execute_command("AI.MODELDEL", "net")
    assert run(sweeping, "twin") == b"OK"
    assert counters(sweeping, "twin") == (1, 0, 1)


def test_settings_are_those_of_the_command_line(redis_server: RedisServer, tmp_path: Path) -> None:
    config = Config(
        redis=redis_server.url, port=0, drain_timeout_s=5, threads_per_queue=3, inter_op_parallelism=2,
        intra_op_parallelism=4, model_execution_timeout_ms=1234, backend_memory_limit_mb=77, model_chunk_size=99_999,
        device_threads=("CPU=2",),
    )  # fmt: skip
    server = FrontDoor(config)
    try:
        with redis.Redis(port=server.port, protocol=2) as client:
            shown = sections(client, "ai")
            assert list(shown["ai_load_time_configs"].values()) == ["3", "2", "4", "1234", "77"]
            assert sum(name.startswith("ai_queue_CPU_bthread") for name in shown["ai_cpu"]) == 2
            assert client.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 99_999
            assert client.execute_command("AI.CONFIG", "GET", "BACKENDSPATH").endswith(b"/redisai_py/backends")
    finally:
        server.stop()
