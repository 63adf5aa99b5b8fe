"""Kill -9 of each process: every acknowledged write is there afterwards, and the service comes back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scripts.make_models import build_onnx_mul
from tests.runtime.faulty import info
from tests.runtime.serving import Serving, eventually, redis_processes, wait_until_gone
from tests.wire import Wire

Serve = Callable[..., Serving]


class Writer:
    """Writes key after key until its connection breaks or it is stopped, and knows which were acknowledged.

    On a bare connection: redis-py opens another one where it finds the last one ended between two commands.
    """

    def __init__(self, serving: Serving) -> None:
        self.acknowledged = 0
        self._stopping = False
        self._client = Wire(serving.port)
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        eventually(lambda: self.acknowledged > 100)

    def _write(self) -> None:
        try:
            while not self._stopping:
                value = self.acknowledged
                if self._client("AI.TENSORSET", f"t{value}", "INT32", 1, "VALUES", value) != b"OK":
                    return
                self.acknowledged = value + 1
        except OSError:
            return

    def finish(self) -> None:
        """Wait until its connection has broken."""
        self._thread.join(20)
        alive = self._thread.is_alive()
        self._client.close()
        assert not alive

    def stop(self) -> None:
        """End, whether its connection has broken or not."""
        self._stopping = True
        self.finish()


def assert_all_there(serving: Serving, count: int) -> None:
    with serving.client() as client:
        pipeline = client.pipeline(transaction=False)
        for value in range(count):
            pipeline.execute_command("AI.TENSORGET", f"t{value}", "VALUES")
        assert pipeline.execute() == [[value] for value in range(count)]


def test_kill_of_the_supervisor_leaves_redis_for_the_next_start_to_adopt(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    (orphan,) = redis_processes(data_dir)
    server = first.server()
    writer = Writer(first)
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve("--data-dir", data_dir, "--port", first.port)
    writer.finish()
    wait_until_gone(server)
    assert redis_processes(data_dir) == [orphan]
    assert "adopted" in "\n".join(second.banner)
    assert_all_there(second, writer.acknowledged)
    assert second.stop() == 0
    wait_until_gone(orphan)

    third = serve("--data-dir", data_dir)
    assert "started" in "\n".join(third.banner)
    assert_all_there(third, writer.acknowledged)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_of_the_server_costs_connections_only(serve: Serve, data_dir: Path, number: signal.Signals) -> None:
    serving = serve("--data-dir", data_dir)
    before = redis_processes(data_dir)
    server = serving.server()
    writer = Writer(serving)
    crashed = time.monotonic()
    server.send_signal(number)
    writer.finish()
    # The supervisor's listening socket takes the connection at once; the new server answers it.
    with serving.client() as client:
        assert client.ping()
    print(f"back after {time.monotonic() - crashed:.2f} s")
    assert serving.server() != server
    assert redis_processes(data_dir) == before
    assert_all_there(serving, writer.acknowledged)
    eventually(lambda: f"how={number.name}" in serving.stderr)
    assert serving.stop() == 0


def test_after_a_crash_no_model_moves_into_the_server(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)

    def process_of_a_short_model() -> int:
        with serving.client() as client:
            for _ in range(150):
                client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
            return int(info(client, "m")[b"process"])

    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul())
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    assert eventually(lambda: process_of_a_short_model() == 0)
    for number, stays in ((signal.SIGKILL, False), (signal.SIGSEGV, True)):
        server = serving.server()
        server.send_signal(number)
        wait_until_gone(server)
        assert eventually(process_of_a_short_model if stays else lambda: process_of_a_short_model() == 0)
    for _ in range(3):
        assert process_of_a_short_model() != 0, "it may have been the one that crashed the server"
    assert "models of short runs stay in engine processes" in serving.stderr


def test_a_server_that_keeps_crashing_is_kept_trying(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    for _ in range(3):
        server = eventually(serving.server)
        server.kill()
        wait_until_gone(server)
    with serving.client() as client:
        assert client.ping()


def test_kill_of_redis_loses_nothing_and_it_comes_back(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    (killed,) = redis_processes(data_dir)
    writer = Writer(serving)
    killed.kill()
    eventually(lambda: redis_processes(data_dir) not in ([], [killed]))
    eventually(lambda: _answers(serving))
    writer.stop()  # a client that waited for no reply at that moment has not been closed
    assert_all_there(serving, writer.acknowledged)
    assert serving.stop() == 0
    assert redis_processes(data_dir) == []


def test_kill_of_an_adopted_redis_is_noticed_too(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        client.set("k", "v")
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve("--data-dir", data_dir)
    (adopted,) = redis_processes(data_dir)
    adopted.kill()
    eventually(lambda: redis_processes(data_dir) not in ([], [adopted]))
    eventually(lambda: _answers(second))
    with second.client() as client:
        assert client.get("k") == b"v"
    assert second.stop() == 0
    assert redis_processes(data_dir) == []


def test_an_orphan_that_does_not_answer_is_replaced(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        client.set("k", "v")
    (orphan,) = redis_processes(data_dir)
    first.signal(signal.SIGKILL)
    first.wait()
    orphan.suspend()
    second = serve("--data-dir", data_dir)
    assert "started" in "\n".join(second.banner)
    wait_until_gone(orphan)
    assert len(redis_processes(data_dir)) == 1
    with second.client() as client:
        assert client.get("k") == b"v"


def test_an_orphan_with_other_settings_is_replaced(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        client.set("k", "v")
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve("--data-dir", data_dir, "--appendfsync", "always")
    assert "started" in "\n".join(second.banner)
    with second.client() as client:
        assert client.get("k") == b"v"
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_files_of_the_dead_do_not_hinder(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        client.set("k", "v")
    (orphan,) = redis_processes(data_dir)
    first.signal(signal.SIGKILL)
    first.wait()
    orphan.kill()
    wait_until_gone(orphan)
    # A process id passes on: somebody else's, which must not be touched.
    bystander = psutil.Popen(["sleep", "60"])
    try:
        (data_dir / "redis.pid").write_text(str(bystander.pid))
        second = serve("--data-dir", data_dir)
        assert "started" in "\n".join(second.banner)
        with second.client() as client:
            assert client.get("k") == b"v"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def _answers(serving: Serving) -> bool:
    with serving.client() as client:
        return bool(client.ping())
