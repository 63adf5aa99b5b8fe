"""Loads and runs that never end in the server's own process: nothing of anybody else's waits for them.

With `--isolation none`, throughout: in an engine process they are killed, which test_isolation and test_faults show.
"""

from __future__ import annotations

import os
import signal
import textwrap
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import redis

from tests.runtime import serving as serving_module
from tests.runtime.serving import Serving, eventually, search_path
from tests.support import free_port

Serve = Callable[..., Serving]

# ctypes.PyDLL keeps the interpreter's lock for the whole call: no other Python thread runs meanwhile.
PLUGIN = """
    import ctypes
    import os
    import threading
    import time

    import numpy as np
    from redisai_py.backend import InputSpec

    class Session:
        inputs = [InputSpec("x")]
        outputs = ["y"]
        nbytes = 0

        def run(self, inputs, keep_on_device=False):
            if inputs[0][0] < 0:
                threading.Event().wait()
            time.sleep(0.01)  # long enough not to be run on the event loop
            return [np.ascontiguousarray(inputs[0])]

        def terminate(self):
            return False

        def close(self):
            pass

    class Backend:
        name = "HANGING"
        version = "1.0"

        def check_device(self, device):
            pass

        def load_model(self, blob, device, inputs, outputs, options):
            if os.path.exists(bytes(blob)):
                if blob.endswith(b"freeze"):
                    ctypes.PyDLL(None).sleep(100_000)
                if blob.endswith(b"wait"):
                    threading.Event().wait()
                if blob.endswith(b"crash"):
                    os.abort()
            return Session()
"""


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """Start a server that loads and runs models itself."""
    return partial(serve, "--isolation", "none")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    info = tmp_path / "hanging_backend-1.0.dist-info"
    info.mkdir()
    (tmp_path / "hanging_backend.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging_backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[redisai_py.backends]\nhanging = hanging_backend:Backend\n")
    return tmp_path


def _store(client: redis.Redis, key: str, blob: bytes | str = b"well") -> Any:
    return client.execute_command("AI.MODELSTORE", key, "HANGING", "CPU", "BLOB", blob)


def _run(client: redis.Redis, key: str, x: str = "x") -> Any:
    return client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 1, x, "OUTPUTS", 1, "y")


RUN_FOREVER = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "forever", "OUTPUTS", 1, "y")


def _ready(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_a_load_that_freezes_the_server_costs_connections_only(serve: Serve, data_dir: Path, site: Path) -> None:
    serving = serve("--data-dir", data_dir, "--stall-timeout-s", 2, environment=search_path(site))
    frozen = serving.server()
    (site / "freeze").touch()
    with serving.client() as client:
        assert _store(client, "m") == b"OK"
        with pytest.raises(redis.ConnectionError):
            _store(client, "f", str(site / "freeze"))
    with serving.client() as other:
        other.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        assert _run(other, "m") == b"OK"
        assert not other.exists("f")
    assert serving.server() != frozen
    assert "the server does not respond" in serving.stderr
    assert "hanging_backend.py" in serving.stderr, "the stacks of its threads tell what hung"
    assert serving.stop() == 0


def test_a_server_that_is_stopped_for_a_while_is_left_alone(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir, "--stall-timeout-s", 2)
    server = serving.server()
    server.send_signal(signal.SIGSTOP)  # as a debugger does
    time.sleep(6)
    server.send_signal(signal.SIGCONT)
    with serving.client() as client:
        assert client.ping()
        serving.signal(signal.SIGSTOP)  # as Ctrl-Z does
        time.sleep(4)
        serving.signal(signal.SIGCONT)
        time.sleep(2)
        assert client.ping()
    assert serving.server() == server


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["freeze", "wait", "crash"])
@pytest.mark.parametrize("words", [("all",), ("bad", "good")])
def test_a_model_that_hangs_does_not_keep_the_server_from_starting(
    serve: Serve, data_dir: Path, site: Path, how: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "READY_TIMEOUT_S", 120)  # two servers hang first where cores are scarce
    first = serve("--data-dir", data_dir, environment=search_path(site))
    with first.client() as client:
        assert _store(client, "bad", str(site / how)) == b"OK"
        assert _store(client, "good") == b"OK"
    assert first.stop() == 0

    (site / how).touch()
    http = free_port()
    options = [word for key in words for word in ("--preload", key)]
    second = serve(
        *("--data-dir", data_dir, "--stall-timeout-s", 2, "--http", http, *options), environment=search_path(site)
    )
    with second.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        assert _run(client, "good") == b"OK"
        assert client.execute_command("AI.INFO", "good", "FULL")
    status, text = _ready(http)
    if how == "wait" or words != ("all",):
        assert status == 503
        assert "preload of bad" in text
        assert "preload of good" not in text
    else:
        assert (status, text) == (200, "ok\n")
    assert second.stop() == 0


def test_runs_that_do_not_end_are_given_up_up_to_a_limit(serve: Serve, data_dir: Path, site: Path) -> None:
    http = free_port()
    options = ("--model-execution-timeout-ms", 1000, "--runaway-limit", 3, "--threads-per-queue", 2, "--http", http)
    serving = serve("--data-dir", data_dir, *options, environment=search_path(site))
    server = serving.server()
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        client.execute_command("AI.TENSORSET", "forever", "FLOAT", 1, "VALUES", -1)
        assert _store(client, "m") == b"OK"
        for count in range(3):
            with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT of 1000 ms passed"):
                _run(client, "m", "forever")
            eventually(lambda count=count: f"going_on={count + 1}" in serving.stderr)
            assert _run(client, "m") == b"OK", "the model is loaded anew"
        assert _ready(http) == (200, "ok\n")
        assert serving.server() == server
        with serving.client() as waiting:  # a job is waited for, so the server drains for a while
            blocking = waiting.connection_pool.get_connection()
            blocking.send_command("BLPOP", "jobs", 0)
            client.connection_pool.get_connection().send_command(*RUN_FOREVER)
            assert eventually(lambda: _ready(http)[0] == 503), "not ready above the limit, before it starts anew"
            assert "do not end" in _ready(http)[1]
            blocking.disconnect()
    eventually(lambda: serving.server() != server)
    with serving.client() as client:
        assert _run(client, "m") == b"OK"
    assert "too many runs do not end" in serving.stderr
    assert "asks to be started again" in serving.stderr
    assert "process died" not in serving.stderr
    assert eventually(lambda: _ready(http) == (200, "ok\n"))
    assert serving.stop() == 0


def test_a_run_that_waits_behind_one_that_does_not_end_is_told(serve: Serve, data_dir: Path, site: Path) -> None:
    serving = serve("--data-dir", data_dir, "--model-execution-timeout-ms", 1000, environment=search_path(site))
    with serving.client() as client, serving.client() as other:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        client.execute_command("AI.TENSORSET", "forever", "FLOAT", 1, "VALUES", -1)
        assert _store(client, "m") == b"OK"
        connection = client.connection_pool.get_connection()
        connection.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "forever", "OUTPUTS", 1, "y")
        eventually(lambda: other.info("ai").get("ai_queue_CPU_running", 1))
        with pytest.raises(redis.ResponseError, match="does not stop; the next command reloads the model"):
            _run(other, "m")
        assert _run(other, "m") == b"OK"
        client.connection_pool.release(connection)


@pytest.mark.parametrize("limit_ms", [1000, 0])
def test_a_stop_with_a_run_that_does_not_end(serve: Serve, data_dir: Path, site: Path, limit_ms: int) -> None:
    serving = serve("--data-dir", data_dir, "--model-execution-timeout-ms", limit_ms, environment=search_path(site))
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "forever", "FLOAT", 1, "VALUES", -1)
        assert _store(client, "m") == b"OK"
        connection = client.connection_pool.get_connection()
        connection.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "forever", "OUTPUTS", 1, "y")
        time.sleep(0.5)
        began = time.monotonic()
        serving.signal(signal.SIGTERM)
        assert serving.wait(30) == 0
        print(f"stopped after {time.monotonic() - began:.1f} s")
        client.connection_pool.disconnect()
    assert os.path.exists(data_dir / "redis.conf")
