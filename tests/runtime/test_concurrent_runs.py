"""One model on several threads, counted inside a third-party backend: which sessions overlap, and which do not."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.runtime.faulty import engines
from tests.runtime.serving import Serving, search_path

Serve = Callable[..., Serving]

# A run waits until `together` runs are inside, or `patience_s` has passed: its output is the most that were.
PLUGIN = """
    import threading

    import numpy as np
    from redisai_py.backend import InputSpec

    class Session:
        inputs = [InputSpec("x")]
        outputs = ["most"]
        nbytes = 0

        def __init__(self, words):
            if "concurrent" in words:
                self.concurrent = True
            if "stateful" in words:
                self.stateful = True
            self.together = int(words[0])
            self.patience_s = float(words[1])
            self.inside = self.most = 0
            self.changed = threading.Condition()

        def run(self, inputs, keep_on_device=False):
            with self.changed:
                self.inside += 1
                self.most = max(self.most, self.inside)
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.most >= self.together, self.patience_s)
                self.inside -= 1
                return [np.full(1, self.most, np.float32)]

        def terminate(self, thread_id=None):
            return False

        def close(self):
            pass

    class Backend:
        name = "COUNTING"
        version = "1.0"

        def check_device(self, device):
            pass

        def load_model(self, blob, device, inputs, outputs, options):
            return Session(bytes(blob).decode().split())
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    info = tmp_path / "counting_backend-1.0.dist-info"
    info.mkdir()
    (tmp_path / "counting_backend.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting_backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[redisai_py.backends]\ncounting = counting_backend:Backend\n")
    return tmp_path


def _most(serving: Serving, key: str, clients: int) -> float:
    """The most runs that were inside while so many clients ran the model once."""
    found: list[float] = []

    def run(number: int) -> None:
        with serving.client() as client:
            client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 1, "x", "OUTPUTS", 1, f"y{number}")
            found.append(float(client.execute_command("AI.TENSORGET", f"y{number}", "VALUES")[0]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == clients
    return max(found)


def test_concurrent_sessions_overlap_up_to_the_devices_threads_and_others_do_not(
    serve: Serve, data_dir: Path, site: Path
) -> None:
    serving = serve("--data-dir", data_dir, "--threads-per-queue", 3, environment=search_path(site))
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        for key, words in {"c": "3 20 concurrent", "s": "2 0.3 concurrent stateful", "n": "2 0.3"}.items():
            client.execute_command("AI.MODELSTORE", key, "COUNTING", "CPU", "BLOB", words)
        assert _most(serving, "c", 6) == 3
        assert _most(serving, "s", 3) == 1
        assert _most(serving, "n", 3) == 1
        assert client.info("ai")["ai_threads_per_queue"] == 3


def test_by_default_two_clients_of_one_model_overlap_where_there_are_two_cores(
    serve: Serve, data_dir: Path, site: Path
) -> None:
    serving = serve("--data-dir", data_dir, environment=search_path(site))
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        client.execute_command("AI.MODELSTORE", "c", "COUNTING", "CPU", "BLOB", "2 20 concurrent")
        threads = client.info("ai")["ai_threads_per_queue"]
        assert _most(serving, "c", 4) >= min(2, threads - 1)


def _nice_values(process: psutil.Process) -> set[int]:
    """Of all threads of a process. Field 19 of proc_pid_stat(5)."""
    stats = Path(f"/proc/{process.pid}/task").glob("*/stat")
    return {int(stat.read_text().rpartition(")")[2].split()[16]) for stat in stats}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no nice value of their own there")
@pytest.mark.parametrize(("nice", "doors"), [(0, 1), (5, 1), (5, 2)])
def test_what_runs_models_is_less_urgent_than_what_serves_clients(
    serve: Serve, data_dir: Path, site: Path, nice: int, doors: int
) -> None:
    serving = serve("--data-dir", data_dir, "--worker-nice", nice, "--processes", doors, environment=search_path(site))
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        client.execute_command("AI.MODELSTORE", "c", "COUNTING", "CPU", "BLOB", "1 0")
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert _nice_values(serving.server()) == {own, own + nice}
        (engine,) = engines(serving)
        assert _nice_values(engine) == {own + nice}
