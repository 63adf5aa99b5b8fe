"""What a model's faults cost others, with the settings that the server comes with: a table of real faults.

Twenty clients run two other models all the while, one in the server and one in its process: they see no error, and no
pause of a second. Each row of the table at the end of the output is a test here: what happened, the longest pause of
the twenty, and the seconds until the model that was hit answers again.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from scripts.make_models import build_onnx_mul
from tests.runtime.faulty import engines, info, run, store
from tests.runtime.models_at_fault import onnx_allocates, torch_model
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import Serving, eventually, wait_until_gone
from tests.runtime.test_front_doors import front_doors
from tests.runtime.test_shared_engines import manager

Note = Callable[..., None]
Faulty = Callable[..., Serving]


@pytest.fixture
def faulty(isolated: Faulty) -> Faulty:
    """A server as it comes, with the two models that the onlookers run."""

    def start(*arguments: str | int) -> Serving:
        serving = isolated(*arguments, mode=None)
        with serving.client() as client:
            store(client, "good")
            client.execute_command("AI.MODELSTORE", "short", "ONNX", "CPU", "BLOB", build_onnx_mul())
            client.execute_command("AI.TENSORSET", "onlooker:in", "FLOAT", 1, 2, "VALUES", 1, 2)

            def proved() -> bool:
                for _ in range(120):
                    client.execute_command("AI.MODELEXECUTE", "short", "INPUTS", 1, "onlooker:in", "OUTPUTS", 1, "y")
                return bool(info(client, "short")[b"process"] == 0)

            eventually(proved)  # soon, unless the machine is so busy that its runs are not short
        return serving

    return start


def _watched(serving: Serving, reconnects: bool = False) -> Onlookers:
    return Onlookers(serving, "good", "short", reconnects=reconnects)


def _until_well(client: redis.Redis, key: str = "m", x: str = "x") -> float:
    """Seconds until the model answers."""
    began = time.monotonic()
    while True:
        with suppress(redis.RedisError):
            run(client, key, x)
            return time.monotonic() - began
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("word", ["segv", "exit"])
def test_a_model_that_crashes_at_every_run(faulty: Faulty, note: Note, word: str) -> None:
    serving = faulty()
    server = serving.server()
    with serving.client() as client:
        store(client, "m", f"run:{word}")
        with _watched(serving) as others:
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died while running it"):
                run(client, "m", "bad")
            well_s = _until_well(client)
            for _ in range(2):
                with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died while running it"):
                    run(client, "m", "bad")
            for _ in range(3):
                with pytest.raises(redis.ResponseError, match=r"model 'm': it is in quarantine.*3 runs in a row"):
                    run(client, "m", "bad")
            note(f"a model crashes at every run ({word})", others, well_s)
        store(client, "m", "run:well")
        assert run(client, "m", "bad") == -2.0
    assert serving.server() == server


def test_models_that_loop(faulty: Faulty, note: Note) -> None:
    serving = faulty("--model-execution-timeout-ms", 1000)
    with serving.client() as client:
        for i in range(3):
            store(client, f"m{i}", "run:freeze")
        with _watched(serving) as others:
            connections = [serving.client().connection_pool.get_connection() for _ in range(3)]
            for i, connection in enumerate(connections):
                connection.send_command("AI.MODELEXECUTE", f"m{i}", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            for connection in connections:
                with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT of 1000 ms passed"):
                    raise connection.read_response()
                connection.disconnect()
            note("three models loop at the same time, limit 1 s", others, _until_well(client, "m2"))


@pytest.mark.parametrize("backend", ["FAULTY", "ONNX", pytest.param("TORCH", marks=pytest.mark.slow)])
def test_a_model_that_allocates_100_gigabytes(faulty: Faulty, note: Note, backend: str) -> None:
    """Without any limit set: the default is a part of the machine's memory."""
    if psutil.virtual_memory().total > 100e9:
        pytest.skip("this machine has them")
    serving = faulty()
    with serving.client() as client:
        blob: bytes = b"run:memory"
        if backend == "ONNX":
            blob = onnx_allocates()
        elif backend == "TORCH":
            blob = torch_model("return torch.ones([int(100_000_000_000 * max(0, -float(x[0]))) // 4 + 1])")
        client.execute_command("AI.MODELSTORE", "m", backend, "CPU", "BLOB", blob)
        run(client, "m")
        with _watched(serving) as others:
            for _ in range(4):
                process = info(client, "m")[b"process"]
                with pytest.raises(redis.ResponseError, match="the memory limit of the engine process"):
                    run(client, "m", "bad")
                assert eventually(lambda process=process: info(client, "m")[b"process"] not in (0, process)), (
                    "a new one"
                )
            note(f"a model allocates 100 GB ({backend})", others, _until_well(client))
        assert info(client, "m")[b"quarantine"] == b"", "an error is no death"


def test_a_proved_model_that_suddenly_allocates(faulty: Faulty, note: Note) -> None:
    """It has moved into the server, and takes nothing there that could harm it."""
    serving = faulty()
    server = serving.server()
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", onnx_allocates())
        for _ in range(150):
            run(client, "m")
        assert eventually(lambda: info(client, "m")[b"process"] == 0)
        client.execute_command("AI.TENSORSET", "much", "FLOAT", 1, "VALUES", -0.003)
        with _watched(serving) as others:
            assert run(client, "m", "much") == 1.0, "300 MB are computed in a process"
            assert server.memory_info().rss < 1_500_000_000
            for _ in range(3):
                with pytest.raises(redis.ResponseError, match="the memory limit of the engine process"):
                    run(client, "m", "bad")
            note("a short ONNX model in the server allocates 100 GB", others, _until_well(client))
        assert serving.server() == server


def test_loads_that_crash_and_loop(faulty: Faulty, note: Note) -> None:
    serving = faulty("--model-load-timeout-ms", 4000)
    with serving.client() as client, _watched(serving) as others:
        with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died while loading it"):
            store(client, "m", "load:segv")
        note("a model crashes while it is loaded", others, 0.0)
        loops = [serving.client().connection_pool.get_connection() for _ in range(3)]
        for i, connection in enumerate(loops):
            connection.send_command("AI.MODELSTORE", f"l{i}", "FAULTY", "CPU", "BLOB", "load:loop")
        time.sleep(0.2)
        began = time.monotonic()
        store(client, "m")
        loaded_s = time.monotonic() - began
        note("three models loop while they are loaded (another is stored)", others, loaded_s)
        assert loaded_s < 3.5, "nobody's load waits for theirs"
        for connection in loops:
            with pytest.raises(redis.ResponseError, match=r"longer than --model-load-timeout-ms \(4000 ms\)"):
                raise connection.read_response()
            connection.disconnect()
    assert "do not end" not in serving.stderr, "what can be killed is no runaway"


def test_no_core_is_dumped(faulty: Faulty, tmp_path: Path, note: Note) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))  # as much as this process may allow its children
    try:
        serving = faulty()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    with serving.client() as client, _watched(serving) as others:
        store(client, "m", "run:kill")
        for _ in range(3):
            with pytest.raises(redis.ResponseError, match="SIGSEGV"):
                run(client, "m", "bad")
        for process in engines(serving):
            assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
        note("a model crashes again and again: core dumps", others, 0.0)
    assert not list(tmp_path.rglob("core*"))


def test_an_engine_process_is_killed_under_load(faulty: Faulty, note: Note, tmp_path: Path) -> None:
    serving = faulty()
    begun = tmp_path / "begun"
    with serving.client() as client:
        store(client, "m", f"run:tell:{begun}")
        victim = psutil.Process(info(client, "m")[b"process"])
        with _watched(serving) as others:
            pending = client.connection_pool.get_connection()
            pending.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            assert eventually(begun.exists)
            victim.kill()
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*\(SIGKILL\)"):
                raise pending.read_response()
            client.connection_pool.release(pending)
            note("`kill -9` of an engine process in a run", others, _until_well(client))


def test_the_process_that_forks_the_others_is_killed(faulty: Faulty, note: Note) -> None:
    serving = faulty()
    with serving.client() as client:
        store(client, "m", "run:segv")
        assert run(client, "m") == 2.0
        before = engines(serving)
        zygote = psutil.Process(info(client, "m")[b"process"]).parent()
        assert zygote not in (None, serving.server())
        with _watched(serving) as others:
            zygote.kill()
            wait_until_gone(zygote)
            well_s = _until_well(client)
            store(client, "new")
            assert run(client, "new") == 2.0
            assert all(process.is_running() for process in before), "they have survived"
            note("`kill -9` of the process from which engine processes are forked", others, well_s)
        with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*unknown status"):
            run(client, "m", "bad")
        with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*SIGSEGV"):
            run(client, "m", "bad")
        with pytest.raises(redis.ResponseError, match=r"model 'm': it is in quarantine.*3 runs in a row"):
            run(client, "m", "bad")
        assert run(client, "new") == run(client, "good") == 2.0
    assert serving.stop() == 0
    for process in before:
        wait_until_gone(process)


def test_the_manager_of_the_engine_processes_is_killed(isolated: Faulty, note: Note) -> None:
    """Twice: the spare one that takes its place has one itself."""
    serving = isolated("--processes", 2)
    with serving.client() as client:
        store(client, "good")
        client.execute_command("AI.MODELSTORE", "short", "ONNX", "CPU", "BLOB", build_onnx_mul())
        client.execute_command("AI.TENSORSET", "onlooker:in", "FLOAT", 1, 2, "VALUES", 1, 2)
        store(client, "m")
        with _watched(serving) as others:
            for i in (1, 2):
                eventually(lambda: len(_spare_zygotes(serving)) == 2)
                before, victim = engines(serving), manager(serving)
                victim.kill()
                for process in (victim, *before):
                    wait_until_gone(process)
                well_s = _until_well(client)
                assert eventually(lambda: len(engines(serving)) == 3)
                note(f"`kill -9` of the manager of the engine processes, two front doors (time {i})", others, well_s)
        server = [each for each in serving.supervisor.children(recursive=True) if "redis" not in each.name()]
        serving.supervisor.kill()
        for process in server:
            wait_until_gone(process)


def _spare_zygotes(serving: Serving) -> list[psutil.Process]:
    """The copies of zygotes for the spare manager."""
    eventually(lambda: any(each.name() == "manager-spare" for each in serving.supervisor.children()))
    processes = serving.supervisor.children(recursive=True)
    zygotes = [each.parent() for each in processes if each.name() in ("redisai-engine", "redisai-spare")]
    return [each for each in processes if each.parent() in zygotes and not each.name().startswith("redisai")]


@pytest.mark.parametrize("both", [False, True], ids=["front door", "front door and engine process"])
def test_a_front_door_is_killed(faulty: Faulty, note: Note, both: bool) -> None:
    """Its own clients connect again, as client libraries do; those of the other front door see nothing."""
    serving = faulty("--processes", 2)
    with serving.client() as client:
        store(client, "m")
        run(client, "m")
        with _watched(serving, reconnects=True) as others:
            doors = front_doors(serving)
            door = doors[0]
            victims = [door]
            if both:
                victims.append(eventually(lambda: _kill_an_engine(serving)))
            door.kill()
            began = time.monotonic()
            for victim in victims:
                wait_until_gone(victim)
            assert eventually(lambda: len(front_doors(serving)) == 2 and door not in front_doors(serving))
            with serving.client() as again:
                _until_well(again)
            well_s = time.monotonic() - began
            time.sleep(0.5)
            what = "`kill -9` of one of two front doors" + (" and of an engine process at once" if both else "")
            note(what, others, well_s)


def _kill_an_engine(serving: Serving) -> psutil.Process:
    """One that is there: a model that moves into the server leaves its process, which ends."""
    engine = next(p for p in serving.supervisor.children(recursive=True) if p.name() == "redisai-engine")
    engine.kill()
    return engine


@pytest.mark.slow
def test_torch_models_that_loop_end_no_inference(faulty: Faulty, note: Note) -> None:
    serving = faulty("--model-execution-timeout-ms", 1000)
    blob = torch_model("""
        while float(x[0]) < 0:
            x = x - 1
        return x * 2
    """)
    stop = threading.Event()
    errors: list[Any] = []

    def loop(key: str) -> None:
        with serving.client() as client:
            while not stop.is_set():
                try:
                    run(client, key, "bad")
                    errors.append("it ended")
                except redis.ResponseError as error:
                    if "MODEL_EXECUTION_TIMEOUT" not in str(error) and "quarantine" not in str(error):
                        errors.append(error)
                time.sleep(0.1)

    with serving.client() as client:
        for key in ("m0", "m1", "m"):
            client.execute_command("AI.MODELSTORE", key, "TORCH", "CPU", "BLOB", blob)
            assert run(client, key) == 2.0
        with _watched(serving) as others:
            threads = [threading.Thread(target=loop, args=(key,)) for key in ("m0", "m1")]
            for thread in threads:
                thread.start()
            until = time.monotonic() + 8
            longest = 0.0
            while time.monotonic() < until:
                longest = max(longest, _until_well(client))
            stop.set()
            for thread in threads:
                thread.join(30)
            note("two TORCH models loop again and again", others, longest)
    assert errors == []
