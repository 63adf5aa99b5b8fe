"""Processes of scripts: engine processes like those of models, each with one user and no model."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
import redis

from tests.runtime.faulty import engines
from tests.runtime.serving import Serving, eventually
from tests.runtime.test_front_doors import front_doors
from tests.runtime.test_shared_engines import manager

pytest.importorskip("torch")

Isolated = Callable[..., Serving]

SOURCE = b"""
def double(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def asks(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", "asked")
    return tensors[0] * 2

def asks_and_loops(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", "asked")
    i = 0
    while i >= 0:
        i = (i + 1) % 1000
    return tensors[0]
"""


def store(client: redis.Redis) -> None:
    names = ("double", "asks", "asks_and_loops")
    assert client.execute_command("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", 3, *names, "SOURCE", SOURCE) == b"OK"


def call(client: redis.Redis, function: str = "double") -> float:
    client.execute_command("AI.SCRIPTEXECUTE", "s", function, "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    return float(client.execute_command("AI.TENSORGET", "y", "VALUES")[0])


def zygotes(serving: Serving) -> list[psutil.Process]:
    found = []
    for process in serving.supervisor.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if "redisai_py.engine.isolation.boot" in words and process.name().startswith("python"):
                found.append(process)
    return [process for process in found if process.parent() not in found]  # without copies for the spare manager


@pytest.mark.parametrize("mode", ["none", "all"])
def test_it_is_an_engine_process(isolated: Isolated, mode: str) -> None:
    serving = isolated("--worker-nice", 3, mode=mode)
    with serving.client() as client:
        store(client)
        assert call(client) == 2.0
        (process,) = engines(serving, "redisai-script")
        assert not engines(serving)
        with open(f"/proc/{process.pid}/oom_score_adj") as file:
            assert int(file.read()) == 1000
        assert process.nice() == serving.server().nice() + 3
        assert process.rlimit(resource.RLIMIT_CORE) == (0, 0)
        assert process.rlimit(resource.RLIMIT_FSIZE) == (0, 0)
        (zygote,) = zygotes(serving)
        assert process.parent() == zygote
        if mode == "all":
            with pytest.raises(redis.ResponseError, match="error loading backend"):  # models find it loaded
                client.execute_command("AI.CONFIG", "LOADBACKEND", "TORCH", "x")
        zygote.kill()
        assert eventually(lambda: not zygote.is_running())
        assert call(client) == 2.0
        assert process.is_running(), "a process survives the one that it was forked from"
        assert all(each == process for each in engines(serving, "redisai-script")), "it went on with the call"


def test_its_death_is_no_models_fault(isolated: Isolated) -> None:
    serving = isolated()
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "m", "FAULTY", "CPU", "BLOB", b"well")
        store(client)
        for _ in range(4):
            assert call(client, "asks") == 2.0
            (process,) = engines(serving, "redisai-script")
            process.send_signal(signal.SIGSEGV)
            assert eventually(lambda process=process: not process.is_running())
        assert call(client) == 2.0
        assert client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
        fields = client.execute_command("AI.INFO", "m", "FULL")
        assert dict(zip(fields[::2], fields[1::2], strict=True))[b"quarantine"] == b""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "all"])
def test_front_doors_have_their_own(isolated: Isolated, mode: str) -> None:
    serving = isolated("--processes", 2, mode=mode)
    with serving.client(protocol=2, single_connection_client=True) as any_client:
        store(any_client)
        assert call(any_client) == 2.0
    assert len(zygotes(serving)) == 1
    (first,) = engines(serving, "redisai-script")
    with serving.client(protocol=2) as client:
        manager(serving).kill()
        assert eventually(lambda: not first.is_running()), "they end with their manager"
        assert call(client) == 2.0
        assert call(client, "asks") == 2.0
        for door in front_doors(serving):
            door.kill()
            assert eventually(lambda door=door: not door.is_running())
    assert eventually(lambda: not engines(serving, "redisai-script")), "they end with their front door"
    with serving.client(protocol=2) as client:

        def works() -> bool:
            with suppress(redis.ConnectionError):
                return call(client) == 2.0
            return False

        assert eventually(works)


@pytest.mark.slow
def test_a_time_limit_holds_at_each_front_door(isolated: Isolated) -> None:
    serving = isolated("--processes", 2, "--script-execution-timeout-ms", 700)
    with serving.client(protocol=2) as client:
        store(client)
        for _ in range(3):
            with pytest.raises(redis.ResponseError, match=r"SCRIPT_EXECUTION_TIMEOUT \(700 ms\)"):
                call(client, "asks_and_loops")
        assert eventually(lambda: not engines(serving, "redisai-script")), "each was killed"
        assert call(client) == 2.0
