"""What the server tells of itself in INFO, MODULE LIST and COMMAND. Source: spec 05."""

from __future__ import annotations

import pytest
import redis

from redisai_py.config import Config
from scripts.make_models import build_onnx_add, build_onnx_mul
from tests.conformance.running import SCRIPT, info, raw, run, sections, store, tensor
from tests.support import FrontDoor, RedisServer, front_doors


def test_the_sections_and_their_fields_in_order(client: redis.Redis, front_door: FrontDoor) -> None:
    store(client)
    config = front_door.config.resolved()
    found = sections(client, "ai")
    assert list(found) == ["ai_versions", "ai_git", "ai_load_time_configs", "ai_backends_info", "ai_cpu"]
    assert found["ai_versions"] == {
        "ai_RedisAI_version": "1.2.7", "ai_low_level_API_version": "1", "ai_rdb_version": "4",
    }  # fmt: skip
    assert list(found["ai_git"]) == ["ai_git_sha"]
    assert list(found["ai_load_time_configs"].items()) == [
        ("ai_threads_per_queue", str(config.threads_per_queue)),
        ("ai_inter_op_parallelism", "0"),
        ("ai_intra_op_parallelism", str(config.intra_op_parallelism)),
        ("ai_model_execution_timeout", "5000"),
        ("ai_backend_memory_limit", "0"),
    ]
    onnx = [name for name in found["ai_backends_info"] if "onnx" in name]
    assert onnx == [
        "ai_onnxruntime_version", "ai_onnxruntime_memory", "ai_onnxruntime_memory_access_num",
        "ai_onnxruntime_maximum_run_sessions_number",
    ]  # fmt: skip
    assert list(found["ai_backends_info"])[-4:] == onnx
    cpu = found["ai_cpu"]
    threads = [f"ai_queue_CPU_bthread_n{i}_used_cpu_total" for i in range(1, config.threads_per_queue + 1)]
    used = ["ai_self", "ai_children", "ai_main_thread"]
    assert list(cpu)[: 6 + len(threads)] == [
        *(f"{who}_used_cpu_{kind}" for who in used for kind in ("sys", "user")), *threads,
    ]  # fmt: skip
    for value in cpu.values():
        assert value == "N/A" or len(value.partition(".")[2]) == 6
        assert value == "N/A" or float(value) >= 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ai_versions",), ["ai_versions"]),
        (("AI_CPU",), ["ai_cpu"]),
        (("modules",), ["Modules", "ai_versions", "ai_git", "ai_load_time_configs", "ai_backends_info", "ai_cpu"]),
    ],
)
def test_sections_by_name(client: redis.Redis, words: tuple[str, ...], expected: list[str]) -> None:
    assert list(sections(client, *words)) == expected


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("section", ["ai_git", "ai", "modules", "everything", "nosuch"])
def test_the_text_is_the_same_in_both_protocols(front_door: FrontDoor, protocol: int, section: str) -> None:
    with redis.Redis(port=front_door.port, protocol=protocol) as client:
        text = raw(client, "INFO", section)
    if section == "nosuch":
        assert text == b""
        return
    # As Redis writes it: no empty line before the first section, one before each other.
    assert text.startswith(b"# ")
    assert text.endswith(b"\r\n")
    assert text.count(b"\r\n\r\n") == text.count(b"# ") - 1


def test_the_default_info_has_the_module_line_but_not_the_sections(client: redis.Redis) -> None:
    assert b"\r\nmodule:name=ai,ver=10207,api=1," in raw(client, "INFO")
    assert list(sections(client)["Modules"]) == ["module"]  # newer servers have modules of their own
    assert not [name for name in sections(client) if name.startswith("ai_")]
    everything = sections(client, "everything")
    assert {"Server", "Keyspace" if "Keyspace" in everything else "Clients", "ai_cpu"} <= everything.keys()


def test_a_queue_of_another_device_has_workers_too(client: redis.Redis) -> None:
    client.execute_command("AI.MODELSTORE", "net1", "ONNX", "cpu:1", "BLOB", build_onnx_mul())
    found = sections(client, "ai")
    assert "ai_queue_CPU:1_bthread_n1_used_cpu_total" in found["ai_cpu"]
    assert info(client, "net1")["device"] == b"cpu:1"
    sessions = int(found["ai_backends_info"]["ai_onnxruntime_maximum_run_sessions_number"])
    threads = len([name for name in found["ai_cpu"] if "_bthread_" in name])
    assert threads <= sessions <= front_doors() * threads


def test_a_queue_that_only_a_script_uses_has_workers_too(client: redis.Redis, front_door: FrontDoor) -> None:
    pytest.importorskip("torch")
    store(client)
    client.execute_command("AI.SCRIPTSTORE", "s", "cpu:77", "ENTRY_POINTS", 1, "double", "SOURCE", SCRIPT)
    found = sections(client, "ai")
    threads = range(1, front_door.config.resolved().threads_per_queue + 1)
    assert [found["ai_cpu"][f"ai_queue_CPU:77_bthread_n{i}_used_cpu_total"] for i in threads] == ["N/A"] * len(threads)
    sessions = int(found["ai_backends_info"]["ai_onnxruntime_maximum_run_sessions_number"])
    workers = len([name for name in found["ai_cpu"] if "_bthread_" in name])
    assert workers <= sessions <= front_doors() * workers


def test_a_device_string_cannot_add_lines_to_info(client: redis.Redis) -> None:
    pytest.importorskip("torch")
    client.execute_command("AI.SCRIPTSTORE", "s", "CPU\r\n# fake\r\nx:", "ENTRY_POINTS", 1, "double", "SOURCE", SCRIPT)
    assert "fake" not in sections(client, "ai")
    client.delete("s")


def test_onnx_memory_follows_the_models(redis_server: RedisServer, bare: redis.Redis) -> None:
    """On a server of its own: the figures are of all models of a process."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))

    def figures() -> tuple[int, int]:
        fields = sections(client, "ai_backends_info")["ai_backends_info"]
        return int(fields["ai_onnxruntime_memory"]), int(fields["ai_onnxruntime_memory_access_num"])

    try:
        with redis.Redis(port=server.port, protocol=2) as client:
            store(client)
            one = len(build_onnx_mul())
            memory, accesses = figures()
            assert memory == one
            assert accesses > 0
            tensor(client, "in", (1, 2))
            run(client)
            assert figures() == (one, accesses + 1)
            store(client, "second", blob=build_onnx_add())
            store(client)  # the replaced model's memory is gone
            assert figures()[0] == one + len(build_onnx_add())
            client.execute_command("AI.MODELDEL", "net")
            pipeline = client.pipeline(transaction=True)
            pipeline.execute_command("AI.MODELDEL", "second")
            assert pipeline.execute() == [b"OK"]
            assert figures()[0] == 0
    finally:
        server.stop()


def test_module_list(client: redis.Redis, front_door: FrontDoor) -> None:
    # Newer servers have modules of their own: ours is the last.
    modules = [dict(zip(row[::2], row[1::2], strict=True)) for row in raw(client, "MODULE", "LIST")]
    with redis.Redis(port=front_door.port, protocol=3) as resp3:
        rows = raw(resp3, "MODULE", "LIST")
    for listed in (modules, rows):
        assert [(row[b"name"], row[b"ver"]) for row in listed if row[b"name"] == b"ai"] == [(b"ai", 10207)]
        assert listed[-1][b"name"] == b"ai"


_TABLE = {
    ("write", "denyoom", "module"): ("1,1,1", "tensorset modelset modelstore scriptset scriptstore"),
    ("write", "module"): ("1,1,1", "modeldel scriptdel"),
    ("readonly", "module"): ("1,1,1", "tensorget modelget scriptget info"),
    ("readonly", "module", ""): ("0,0,0", "_modelscan _scriptscan"),
    ("write", "module", ""): ("0,0,0", "config"),
    ("write", "denyoom", "module", "movablekeys"): ("3,3,1", "modelrun dagrun dagexecute"),
    ("write", "denyoom", "module", "movablekeys", ""): ("4,4,1", "modelexecute scriptrun"),
    ("write", "denyoom", "module", "movablekeys", "", ""): ("5,5,1", "scriptexecute"),
    ("write", "denyoom", "module", "movablekeys", "", "", ""): ("2,2,1", "cache"),
    ("readonly", "module", "movablekeys"): ("3,3,1", "dagrun_ro dagexecute_ro"),
}
COMMAND_ROWS = [
    (f"ai.{name}", {flag for flag in flags if flag}, [int(n) for n in positions.split(",")])
    for flags, (positions, names) in _TABLE.items()
    for name in names.split()
]


@pytest.mark.parametrize(("name", "flags", "positions"), COMMAND_ROWS)
def test_command_info(client: redis.Redis, name: str, flags: set[str], positions: list[int]) -> None:
    ours, of_redis = raw(client, "COMMAND", "INFO", name, "get")
    assert ours[:2] == [name.encode(), -1]
    assert {flag.decode() for flag in ours[2]} == flags
    assert ours[3:6] == positions
    assert ours[6] == []  # no ACL categories
    assert of_redis[0] == b"get"
    assert len(ours) >= len(of_redis) or len(ours) == 10


def test_command_count_and_list(client: redis.Redis, bare: redis.Redis) -> None:
    assert len(COMMAND_ROWS) == raw(client, "COMMAND", "COUNT") - raw(bare, "COMMAND", "COUNT")
    if int(bare.info("server")["redis_version"].split(".")[0]) < 7:
        return
    names = set(raw(client, "COMMAND", "LIST")) - set(raw(bare, "COMMAND", "LIST"))
    assert names == {name.encode() for name, _, _ in COMMAND_ROWS}
    assert set(raw(client, "COMMAND", "LIST", "FILTERBY", "MODULE", "ai")) == names


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 1 c", "m a b c"),
        ("AI.MODELRUN m INPUTS a b OUTPUTS c", "m a b c"),
        ("AI.SCRIPTRUN s f INPUTS a $ b OUTPUTS c", "s a b c"),
        ("AI.DAGEXECUTE LOAD 1 a PERSIST 1 b ROUTING r |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b", "a b r m"),
        ("AI.INFO k RESETSTAT", "k"),
    ],
)
def test_command_getkeys(client: redis.Redis, words: str, keys: str) -> None:
    assert raw(client, "COMMAND", "GETKEYS", *words.split()) == [key.encode() for key in keys.split()]


def test_config_has_no_keys(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="The command has no key arguments"):
        raw(client, "COMMAND", "GETKEYS", "AI.CONFIG", "GET", "x")
