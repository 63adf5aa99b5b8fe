"""Models in engine processes: what crashes, loops or takes too much there harms nobody else, and leaves nothing behind.

Every process here is real: the models are those of a third party's backend that does what their bytes say.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import redis

from scripts import make_models
from tests.backends.conftest import BUILD_REQUIREMENTS
from tests.runtime.faulty import engines, info, run, spares, store
from tests.runtime.models_at_fault import onnx_allocates
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import Serving, eventually, wait_until_gone
from tests.support import free_port

MODES = ("all", "auto")


@pytest.mark.parametrize(("word", "how"), [("segv", "SIGSEGV"), ("kill", "SIGSEGV"), ("exit", "exit status 7")])
def test_a_model_that_crashes_gets_an_error_and_then_quarantine(
    isolated: Callable[..., Serving], word: str, how: str
) -> None:
    serving = isolated()
    server = serving.server()
    with serving.client() as client:
        store(client, "good")
        store(client, "m", f"run:{word}")
        with Onlookers(serving, "good") as others:
            for _ in range(2):
                with pytest.raises(redis.ResponseError, match=rf"^model 'm': its engine process died .*\({how}\)$"):
                    run(client, "m", "bad")
            assert run(client, "m") == 2.0, "it is loaded again, and a good run ends the row"
            for _ in range(2):
                with pytest.raises(redis.ResponseError, match="its engine process died"):
                    run(client, "m", "bad")
            for x in ("bad", "bad", "x"):
                with pytest.raises(redis.ResponseError, match=f"model 'm': it is in quarantine.*3 runs.*{how}"):
                    run(client, "m", x)
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert others.calls > 20
        fields = info(client, "m")
        assert b"3 runs in a row" in fields[b"quarantine"]
        store(client, "m", "run:well")
        assert run(client, "m", "bad") == -2.0
        assert info(client, "m")[b"quarantine"] == b""
    assert serving.server() == server
    assert "an engine process ended" in serving.stderr


@pytest.mark.slow
@pytest.mark.parametrize("word", ["loop", "freeze"])
def test_a_run_that_does_not_end_is_killed(isolated: Callable[..., Serving], word: str) -> None:
    serving = isolated("--model-execution-timeout-ms", 1000)
    with serving.client() as client:
        store(client, "good")
        store(client, "m", f"run:{word}")
        with Onlookers(serving, "good") as others:
            for _ in range(3):
                with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT of 1000 ms passed"):
                    run(client, "m", "bad")
                time.sleep(1.5)
            with pytest.raises(redis.ResponseError, match=r"model 'm': it is in quarantine.*MODEL_EXECUTION_TIMEOUT"):
                run(client, "m")
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert eventually(lambda: len(engines(serving)) == 1), "the killed one is gone"


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_was_short_and_then_is_not(isolated: Callable[..., Serving], mode: str) -> None:
    serving = isolated(mode=mode)
    with serving.client() as client:
        store(client, "good")
        store(client, "sleepy", "run:sleep")
        store(client, "crashing", "run:segv")
        for _ in range(150):
            assert run(client, "sleepy") == run(client, "crashing") == 2.0
        with Onlookers(serving, "good") as others:
            for _ in range(3):
                assert run(client, "sleepy", "bad") == -2.0
            with pytest.raises(redis.ResponseError, match=r"model 'crashing': its engine process died .*SIGSEGV"):
                run(client, "crashing", "bad")
            assert run(client, "crashing") == 2.0
            assert others.pause_s() < 1.0
        assert others.errors == []
    assert serving.stderr.count("an engine process ended") == 1


def test_runs_that_loop_in_many_models_hold_up_nobody(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--model-execution-timeout-ms", 2000)
    with serving.client() as client:
        store(client, "good")
        for i in range(5):
            store(client, f"m{i}", "run:freeze")
        with Onlookers(serving, "good") as others:
            looping = [serving.client().connection_pool.get_connection() for _ in range(5)]
            for i, connection in enumerate(looping):
                connection.send_command("AI.MODELEXECUTE", f"m{i}", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            for connection in looping:
                with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT of 2000 ms passed"):
                    raise connection.read_response()
                connection.disconnect()
            assert others.pause_s() < 1.0
            time.sleep(1.5)
            assert run(client, "m0") == run(client, "m4") == 2.0
        assert others.errors == []


def test_a_model_that_allocates_too_much_gets_an_error(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--engine-memory-limit-mb", 1000)
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:memory")
        with Onlookers(serving, "good") as others:
            for _ in range(4):
                with pytest.raises(redis.ResponseError, match="the memory limit of the engine process"):
                    run(client, "m", "bad")
            assert run(client, "m") == 2.0
            assert others.pause_s() < 1.0
        assert others.errors == []


def test_outputs_that_would_fill_the_servers_memory_stay_away(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--engine-memory-limit-mb", 1000)
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", onnx_allocates("big"))
        client.execute_command("AI.TENSORSET", "much", "FLOAT", 1, "VALUES", -0.004)
        before = serving.server().memory_info().rss
        for _ in range(2):
            with pytest.raises(redis.ResponseError, match=r"^model .m.: the outputs take 400000\d+ bytes, more than"):
                run(client, "m", "much")
            assert run(client, "m") == 1.0
        assert serving.server().memory_info().rss < before + 100_000_000


@pytest.mark.parametrize("word", ["segv", "loop", "freeze", "memory"])
def test_a_load_that_goes_wrong_is_an_error(isolated: Callable[..., Serving], word: str) -> None:
    serving = isolated("--model-load-timeout-ms", 1500, "--engine-memory-limit-mb", 1000)
    texts = {
        "segv": r"model 'm': its engine process died while loading it \(SIGSEGV\)",
        "memory": "the memory limit of the engine process",
    }
    with serving.client() as client:
        store(client, "good")
        with Onlookers(serving, "good") as others:
            with pytest.raises(redis.ResponseError, match=texts.get(word, r"--model-load-timeout-ms \(1500 ms\)")):
                store(client, "m", f"load:{word}")
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert not client.exists("m")


def test_a_stored_model_whose_load_crashes_is_put_in_quarantine(
    isolated: Callable[..., Serving], tmp_path: Path
) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "m", f"load-if:{tmp_path}/now:segv")
        assert run(client, "m") == 2.0
        (tmp_path / "now").touch()
        (process,) = engines(serving)
        process.kill()
        eventually(lambda: "an engine process ended" in serving.stderr)
        for _ in range(5):
            with pytest.raises(redis.ResponseError, match=r"engine process died|in quarantine"):
                run(client, "m")
        with pytest.raises(redis.ResponseError, match=r"in quarantine, since its engine process died in 3 loads"):
            run(client, "m")


def test_models_that_share_a_process_survive_each_other(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--engine-processes", 1, "--threads-per-queue", 4)
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:segv")
        store(client, "counts", "run:counts")
        assert run(client, "m") == run(client, "good") == 2.0
        assert run(client, "counts") == 1.0
        assert run(client, "counts") == 2.0
        assert len(engines(serving)) == 1
        with Onlookers(serving, "good") as others:
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died while running it"):
                run(client, "m", "bad")
            assert run(client, "m") == 2.0
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert info(client, "m")[b"process"] != info(client, "good")[b"process"], "the one that crashes is alone now"
        assert run(client, "counts") == 1.0, "a state dies with its process"


@pytest.mark.parametrize("mode", MODES)
def test_an_engine_process_killed_under_load_is_replaced(
    isolated: Callable[..., Serving], mode: str, tmp_path: Path
) -> None:
    serving = isolated("--engine-processes", 2, mode=mode)
    begun = tmp_path / "begun"
    with serving.client() as client:
        store(client, "good")
        store(client, "m", f"run:tell:{begun}")
        first, second = (psutil.Process(info(client, key)[b"process"]) for key in ("good", "m"))
        with Onlookers(serving, "good") as others:
            pending = client.connection_pool.get_connection()
            pending.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            assert eventually(begun.exists)
            second.kill()
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*\(SIGKILL\)"):
                raise pending.read_response()
            client.connection_pool.release(pending)
            assert run(client, "m") == 2.0
            assert others.pause_s() < 1.0
        assert others.errors == []
        first.kill()
        wait_until_gone(first)
        assert eventually(lambda: len(engines(serving)) == 2), "without any command"
        assert run(client, "good") == 2.0


@pytest.mark.parametrize("end", ["server", "supervisor", "process"])
def test_an_engine_process_survives_the_one_that_it_was_forked_from(isolated: Callable[..., Serving], end: str) -> None:
    """It still ends with the server, even if it hangs, and its own end is noticed."""
    serving = isolated("--drain-timeout-s", 1)
    with serving.client() as client:
        store(client, "m", "run:freeze")
        (process,) = engines(serving)
        zygote, server = process.parent(), serving.server()
        zygote.kill()
        wait_until_gone(zygote)
        assert run(client, "m") == 2.0
        assert info(client, "m")[b"process"] == process.pid
        with serving.client() as another:
            another.connection_pool.get_connection().send_command(
                "AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y"
            )
            time.sleep(0.3)
            {"server": server, "supervisor": serving.supervisor, "process": process}[end].kill()
            wait_until_gone(process)
        if end == "process":
            assert run(client, "m") == 2.0
            assert info(client, "m")[b"process"] not in (0, process.pid)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("raise", r"^\"a bug of the plugin's\"$|^'\"a bug"),
        ("refuse", "^the framework's own words$"),
        ("quit", "^a plugin that quits$"),
    ],
)
def test_errors_of_a_run_have_the_words_that_they_have_in_the_server(
    isolated: Callable[..., Serving], word: str, text: str
) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "m", f"run:{word}")
        with pytest.raises(redis.ResponseError, match=text):
            run(client, "m", "bad")
        assert run(client, "m") == 2.0
        assert info(client, "m")[b"errors"] == 1


def test_a_process_that_sends_nonsense_is_killed(isolated: Callable[..., Serving]) -> None:
    serving = isolated()
    server = serving.server()
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:nonsense")
        with Onlookers(serving, "good") as others:
            before = engines(serving)
            for _ in range(4):
                with suppress(redis.ResponseError):
                    run(client, "m", "bad")
            assert eventually(lambda: "did not keep to the protocol" in serving.stderr or engines(serving) != before)
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert run(client, "good") == 2.0
        assert client.ping()
    assert serving.server() == server


def test_killing_the_server_leaves_no_engine_process(isolated: Callable[..., Serving]) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "good")
        store(client, "m", "run:loop")
        client.connection_pool.get_connection().send_command(
            "AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y"
        )
        time.sleep(0.3)
        assert eventually(lambda: spares(serving))
        server, processes = serving.server(), serving.server().children(recursive=True)
        assert len(processes) == 4, "two with a model, a spare one, and the one that they were forked from"
        server.kill()
        for process in processes:
            wait_until_gone(process)
    assert eventually(lambda: serving.server() != server)
    with serving.client() as client:
        assert run(client, "good") == 2.0


@pytest.mark.parametrize("word", ["load:segv", "load:exit"])
def test_a_spare_process_is_taken_and_judged_like_any_other(isolated: Callable[..., Serving], word: str) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "good")
        (spare,) = eventually(lambda: spares(serving))
        store(client, "m", "run:segv")
        assert info(client, "m")[b"process"] == spare.pid
        for _ in range(2):
            eventually(lambda: spares(serving))
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*SIGSEGV"):
                run(client, "m", "bad")
        with pytest.raises(redis.ResponseError, match=r"model 'm': it is in quarantine.*3 runs in a row"):
            run(client, "m", "bad")
        for _ in range(2):
            (spare,) = eventually(lambda: spares(serving))
            with pytest.raises(redis.ResponseError, match=r"model 'l': its engine process died while loading it"):
                store(client, "l", word)
            wait_until_gone(spare)
        (spare,) = eventually(lambda: spares(serving))
        spare.kill()
        store(client, "l")
        assert run(client, "l") == run(client, "good") == 2.0
        assert info(client, "l")[b"quarantine"] == b""


def test_server_and_engine_process_killed_at_once(isolated: Callable[..., Serving]) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "good")
        assert run(client, "good") == 2.0
        server, (process,) = serving.server(), engines(serving)
        zygote = process.parent()
        process.kill()
        server.kill()
        for each in (process, zygote):
            wait_until_gone(each)
    assert eventually(lambda: serving.server() != server)
    with serving.client() as client:
        assert run(client, "good") == 2.0
        assert info(client, "good")[b"quarantine"] == b""
        assert len(engines(serving)) == 1


def test_a_stop_with_a_run_that_loops_is_quick(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--model-execution-timeout-ms", 0, "--drain-timeout-s", 1)
    with serving.client() as client:
        store(client, "m", "run:freeze")
        client.connection_pool.get_connection().send_command(
            "AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y"
        )
        time.sleep(0.3)
        processes = serving.server().children(recursive=True)
        began = time.monotonic()
        assert serving.stop() == 0
        assert time.monotonic() - began < 20  # left alone, it would compute for ever
        for process in processes:
            wait_until_gone(process)


def test_models_come_and_go_without_a_trace(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--engine-processes", 3)
    with serving.client() as client:
        for i in range(8):
            store(client, f"m{i}")
            assert run(client, f"m{i}") == 2.0
        assert len(engines(serving)) == 3
        server = serving.server()
        files = server.num_fds()
        for round in range(5):
            for i in range(8):
                store(client, f"m{i}", f"run:well{round}")
                assert run(client, f"m{i}") == 2.0
        # Forty models came and went. What may be new is a lane for each loader and process, and a spare process.
        assert eventually(lambda: server.num_fds() < files + 16)
        for i in range(8):
            client.execute_command("AI.MODELDEL", f"m{i}")
        assert eventually(lambda: not engines(serving)), "a process without a model ends"


def test_large_and_odd_tensors_cross(isolated: Callable[..., Serving]) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "m")
        for dtype, word in ((np.float32, "FLOAT"), (np.int8, "INT8"), (np.float64, "DOUBLE")):
            for shape in ((1,), (3, 0, 2), (2, 3, 4), (1500, 1000)):
                data = (np.arange(np.prod(shape)) % 50).astype(dtype).reshape(shape)
                client.execute_command("AI.TENSORSET", "in", word, *shape, "BLOB", data.tobytes())
                client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
                reply = client.execute_command("AI.TENSORGET", "out", "META", "BLOB")
                assert reply[1] == word.encode()
                assert tuple(reply[3]) == shape
                assert reply[5] == (data * 2).tobytes()


def test_processes_and_quarantine_are_seen(isolated: Callable[..., Serving]) -> None:
    http = free_port()
    serving = isolated("--http", http)

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    with serving.client() as client:
        assert "redisai_engine_processes 0.0" in metrics(), "nothing runs before the first model"
        assert client.execute_command("AI.CONFIG", "LOADBACKEND", "faulty", "ignored") == b"OK"
        assert client.info("ai")["ai_FAULTY_version"] == 1.0
        with pytest.raises(redis.ResponseError, match="error loading backend"):
            client.execute_command("AI.CONFIG", "LOADBACKEND", "FAULTY", "ignored")
        store(client, "good")
        store(client, "m", "run:segv")
        assert info(client, "good")[b"process"] in [process.pid for process in engines(serving)]
        for _ in range(4):
            with pytest.raises(redis.ResponseError, match="engine process died"):
                run(client, "m", "bad")
        text = metrics()
        assert 'redisai_engine_process_deaths_total{how="SIGSEGV"} 3.0' in text
        assert "redisai_quarantined_models 1.0" in text
        assert 'redisai_model_quarantined{backend="FAULTY",db="0",device="CPU",model="m"} 1.0' in text
        assert 'redisai_model_quarantined{backend="FAULTY",db="0",device="CPU",model="good"} 0.0' in text
        url = f"redis://127.0.0.1:{serving.port}"
        command = [sys.executable, "-m", "redisai_py", "model", "ls", "--url", url, "--json"]
        listed = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
        assert {model["key"]: "3 runs in a row" in model["quarantine"] for model in listed} == {
            "good": False,
            "m": True,
        }


def test_values_stay_on_a_device_within_a_dag(isolated: Callable[..., Serving]) -> None:
    serving = isolated()
    with serving.client() as client:
        for key in ("g", "h"):
            client.execute_command("AI.MODELSTORE", key, "FAULTY", "GPU:0", "BLOB", b"any")
        store(client, "c")
        assert len(engines(serving)) == 2, "one process owns the device"
        dag = ["AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "d"]
        for key, source, target in (("g", "x", "a"), ("h", "a", "b"), ("c", "b", "c1"), ("g", "b", "d")):
            dag += ["|>", "AI.MODELEXECUTE", key, "INPUTS", 1, source, "OUTPUTS", 1, target]
        dag += ["|>", "AI.TENSORGET", "c1", "VALUES", "|>", "AI.TENSORGET", "a", "VALUES"]
        for _ in range(3):
            replies = client.execute_command(*dag)
            assert [float(value) for (value,) in replies[-2:]] == [208.0, 2.0]
            assert float(client.execute_command("AI.TENSORGET", "d", "VALUES")[0]) == 308.0


def test_models_are_replaced_and_deleted_under_load(isolated: Callable[..., Serving]) -> None:
    serving = isolated("--engine-processes", 2)
    with serving.client() as client:
        store(client, "good")
        with Onlookers(serving, "good") as others:
            for i in range(20):
                store(client, "good", f"run:well{i}")
                store(client, f"other{i}")
                client.execute_command("AI.MODELDEL", f"other{i}")
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert run(client, "good") == 2.0
        assert eventually(lambda: len(engines(serving)) <= 2)
        client.flushall()
        with pytest.raises(redis.ResponseError, match="model key is empty"):
            client.execute_command("AI.MODELEXECUTE", "good", "INPUTS", 1, "x", "OUTPUTS", 1, "y")


LOOPING_SETSTATE = """
    import sys, torch

    class M(torch.nn.Module):
        n: int

        def __init__(self):
            super().__init__()
            self.n = 3

        @torch.jit.export
        def __getstate__(self):
            return (self.n, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[int, bool]):
            self.n = state[0]
            self.training = state[1]
            i = 1
            while i != 0:
                i = (i * 6364136223846793005 + 1442695040888963407) | 1
            self.n = i

        def forward(self, x):
            return x + self.n

    torch.jit.save(torch.jit.script(M()), sys.argv[1])
"""


@pytest.mark.slow
def test_a_setstate_that_loops_is_refused_or_killed(isolated: Callable[..., Serving], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = tmp_path / "looping.py"  # torch reads the source of what it compiles
    program.write_text(textwrap.dedent(LOOPING_SETSTATE))
    subprocess.run([sys.executable, program, tmp_path / "m.pt"], check=True, timeout=60, capture_output=True)
    serving = isolated("--model-load-timeout-ms", 8000)
    with serving.client() as client:
        store(client, "good")
        with Onlookers(serving, "good") as others:
            with pytest.raises(redis.ResponseError, match=r"its __setstate__, .* computes|--model-load-timeout-ms"):
                client.execute_command("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", (tmp_path / "m.pt").read_bytes())
            assert others.pause_s() < 1.0
        assert others.errors == []
        assert eventually(lambda: len(engines(serving)) == 1)


@pytest.mark.parametrize("mode", MODES)
def test_what_decides_by_values_is_not_merged_wherever_it_is_loaded(
    isolated: Callable[..., Serving], mode: str
) -> None:
    serving = isolated(mode=mode)
    with serving.client() as client:
        for word, reason in (("branches", b"values of its inputs decide its control flow (an if)"), ("well", b"")):
            blob = f"run:{word}"
            client.execute_command("AI.MODELSTORE", "m", "FAULTY", "CPU", "BATCHSIZE", 8, "BLOB", blob)
            assert run(client, "m") == 2.0
            assert info(client, "m")[b"not_merged"] == reason


REAL = {
    "onnx_mlp.onnx": ("ONNX", (), [("FLOAT", (3, 784))]),
    "onnx_string_identity.onnx": ("ONNX", (), [("STRING", (2,))]),
    "torch_multi.pt": ("TORCH", (), [("FLOAT", (2, 2)), ("FLOAT", (2, 2))]),
    "tflite_mul.tflite": ("TFLITE", (), [("FLOAT", (1, 2)), ("FLOAT", (1, 2))]),
    "tf_mul.pb": ("TF", ("INPUTS", 2, "a", "b", "OUTPUTS", 1, "mul"), [("FLOAT", (2, 2)), ("FLOAT", (2, 2))]),
}


def _answers(client: redis.Redis, name: str) -> list[Any]:
    """What a model says of itself, and what it answers to good and to bad inputs."""
    backend, words, inputs = REAL[name]
    blob = make_models.BUILDERS[name]()
    told: list[Any] = [_reply(client, "AI.MODELSTORE", "m", backend, "CPU", *words, "BLOB", blob)]
    fields = info(client, "m")
    told += [fields[item] for item in (b"inputs", b"outputs", b"stateful")]
    for i, (dtype, shape) in enumerate(inputs):
        count = int(np.prod(shape))
        values = ["some", "words"] if dtype == "STRING" else [str(v % 7 - 3) for v in range(count)]
        client.execute_command("AI.TENSORSET", f"in{i}", dtype, *shape, "VALUES", *values)
        client.execute_command("AI.TENSORSET", f"wrong{i}", "INT8", 1, 1, 1, "VALUES", 1)
    outputs = [f"out{i}" for i in range(len(fields[b"outputs"]))]
    for prefix in ("in", "in", "wrong", "in"):
        keys = [f"{prefix}{i}" for i in range(len(inputs))]
        told.append(
            _reply(client, "AI.MODELEXECUTE", "m", "INPUTS", len(keys), *keys, "OUTPUTS", len(outputs), *outputs)
        )
        told += [_reply(client, "AI.TENSORGET", key, "META", "BLOB") for key in outputs]
    told.append(_reply(client, "AI.MODELSTORE", "n", backend, "CPU", *words, "BLOB", blob[: len(blob) // 2]))
    return told


def _reply(client: redis.Redis, *words: Any) -> Any:
    try:
        return client.execute_command(*words)
    except redis.ResponseError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_models_of_every_framework_answer_as_they_do_in_the_server(
    isolated: Callable[..., Serving], serve: Callable[..., Serving], tmp_path: Path, name: str
) -> None:
    for module in BUILD_REQUIREMENTS[name.partition("_")[0]]:
        pytest.importorskip(module)
    serving = isolated()
    with serving.client() as client:
        elsewhere = _answers(client, name)
        assert eventually(lambda: len(engines(serving)) == 1), "one that no model needs any more ends"
        (process,) = engines(serving)
        assert info(client, "m")[b"process"] == process.pid
        process.kill()
        wait_until_gone(process)
        keys = [f"in{i}" for i in range(len(REAL[name][2]))]
        outputs = [f"out{i}" for i in range(len(info(client, "m")[b"outputs"]))]
        command = ("AI.MODELEXECUTE", "m", "INPUTS", len(keys), *keys, "OUTPUTS", len(outputs), *outputs)
        assert eventually(lambda: client.execute_command(*command) == b"OK"), "it is loaded again from its bytes"
    with serve("--data-dir", tmp_path / "other", "--isolation", "none").client() as client:
        assert elsewhere == _answers(client, name)
        assert info(client, "m")[b"process"] == 0
