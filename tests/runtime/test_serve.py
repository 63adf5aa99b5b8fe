"""`redisai serve` as a whole: started, used, stopped and started again."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis
from safetensors.numpy import load

from redisai_py.cli.commands.serve import banner
from redisai_py.config import Config
from redisai_py.serve.preflight import RedisFacts
from redisai_py.serve.supervisor import Started
from scripts.make_models import build_onnx_heavy
from tests.runtime.serving import Serving, eventually, redis_processes
from tests.support import typed

Serve = Callable[..., Serving]


def test_the_greeting_says_where_things_are_and_its_commands_work(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    text = "\n".join(serving.banner)
    assert f"127.0.0.1:{serving.port}" in text
    assert str(data_dir) in text
    assert "started" in text
    # Typed into a shell that does not know the virtual environment.
    commands = [line.strip() for line in serving.banner if line.startswith("    ")]
    printed = typed(commands)
    for words in ("PONG", "OK", "FLOAT", "4", "ai_"):
        assert words in printed


def test_sigterm_stops_everything_and_a_second_start_finds_the_data(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    children = first.supervisor.children()
    assert len(children) == 2
    with first.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 1, 2)
        client.set("plain", "kept")
    assert first.stop() == 0
    assert not [child for child in children if child.is_running()]
    assert redis_processes(data_dir) == []

    second = serve("--data-dir", data_dir)
    assert "started" in "\n".join(second.banner)
    with second.client() as client:
        np.testing.assert_array_equal(load(client.get("x"))["tensor"], np.array([1, 2], np.float32))
        assert client.get("plain") == b"kept"


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def test_ctrl_c_drains_what_runs_and_keeps_its_result(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "heavy", "ONNX", "CPU", "BLOB", build_onnx_heavy(2500))
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 1, 2, "VALUES", 1, 2)
        connection = client.connection_pool.get_connection()
        processes = [serving.server(), *serving.server().children(recursive=True)]
        before = _cpu_s(processes)
        connection.send_command("AI.MODELEXECUTE", "heavy", "INPUTS", 1, "in", "OUTPUTS", 1, "result")
        # It runs once it takes the processor. Ctrl-C reaches all processes of the terminal's group.
        eventually(lambda: _cpu_s(processes) > before + 0.02)
        os.killpg(serving.process.pid, signal.SIGINT)
        assert connection.read_response() == b"OK"
        client.connection_pool.release(connection)
    assert serving.wait() == 0

    with serve("--data-dir", data_dir).client() as client:
        assert client.execute_command("AI.TENSORGET", "result", "VALUES") in ([1.0, 2.0], [b"1", b"2"])


def test_a_second_signal_does_not_wait(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir, "--drain-timeout-s", 60)
    serving.server().suspend()  # a server that cannot drain
    serving.signal(signal.SIGTERM)
    # It has taken notice: two signals that wait to be noticed are one.
    eventually(lambda: not serving.supervisor.net_connections("inet"))
    with pytest.raises(subprocess.TimeoutExpired):
        serving.wait(0.3)
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert redis_processes(data_dir) == []


def test_start_is_fast_and_imports_no_framework(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    # Of the processor's time, since where others want it too, a start takes longer.
    processes = [serving.supervisor, *serving.supervisor.children()]
    cpu_s = _cpu_s(processes)
    print(f"ready after {serving.ready_s:.2f} s, {cpu_s:.2f} s of the processor's")
    assert cpu_s < 3
    maps = Path(f"/proc/{serving.server().pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc on this machine")
    libraries = maps.read_text()
    assert "uvloop" in libraries  # that libraries are seen here at all
    for framework in ("libtorch", "onnxruntime", "tensorflow", "litert"):
        assert framework not in libraries
    assert "numpy" not in Path(f"/proc/{serving.process.pid}/maps").read_text()


def test_the_private_redis_is_for_its_owner_only_and_listens_on_no_port(serve: Serve, data_dir: Path) -> None:
    serve("--data-dir", data_dir)
    assert data_dir.stat().st_mode & 0o077 == 0
    (redis_server,) = redis_processes(data_dir)
    assert [c for c in redis_server.net_connections("inet")] == []
    with redis.Redis(unix_socket_path=str(data_dir / "redis.sock")) as client:
        assert client.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}


def test_settings_of_the_users_redis_conf_hold_but_not_against_ours(serve: Serve, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "redis.conf").write_text("maxmemory 77mb\nappendonly no\nport 6379\n")
    serve("--data-dir", data_dir, "--appendfsync", "always")
    with redis.Redis(unix_socket_path=str(data_dir / "redis.sock")) as client:
        settings = client.config_get("maxmemory", "appendonly", "port", "appendfsync")
    assert settings == {"maxmemory": str(77 * 1024**2), "appendonly": "yes", "port": "0", "appendfsync": "always"}


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_a_long_path_gets_its_socket_elsewhere(serve: Serve, data_dir: Path, runtime: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    deep = data_dir / ("d" * 60) / ("e" * 60)
    serving = serve("--data-dir", deep, environment=environment)
    try:
        with serving.client() as client:
            assert client.set("k", "v")
        assert not (deep / "redis.sock").exists()
        assert [path.name for path in runtime.glob("redisai-*/*")] == ["redis.sock"]
        serving.signal(signal.SIGKILL)
        serving.wait()
        # The socket is found again even if this start would put a new one somewhere else.
        again = serve("--data-dir", deep, environment={"XDG_RUNTIME_DIR": ""})
        assert "adopted" in "\n".join(again.banner)
        with again.client() as client:
            assert client.get("k") == b"v"
        assert again.stop() == 0
    finally:
        for process in redis_processes(deep):
            process.kill()


def test_without_redis_cli_the_greeting_shows_python(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    started = Started("127.0.0.1", serving.port, Config(redis="redis://h"), RedisFacts("7.2", open=True), None, None)
    commands = [line.strip() for line in banner(started, redis_cli=None) if line.startswith("    ")]
    printed = typed(commands)
    for words in ("OK", "FLOAT", "ai_"):
        assert words in printed


def test_closing_the_terminal_stops_everything(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    serving.signal(signal.SIGHUP)
    assert serving.wait() == 0
    assert redis_processes(data_dir) == []


def test_the_server_may_have_as_many_connections_as_it_is_told(serve: Serve, data_dir: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    serving = serve("--data-dir", data_dir, "--max-clients", 3000)
    soft, _ = serving.server().rlimit(psutil.RLIMIT_NOFILE)
    assert soft >= min(6000, hard)
