from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.runtime.faulty import PLUGIN
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import Serving, redis_processes, search_path, wait_until_gone

Serve = Callable[..., Serving]
HAS_REDIS = shutil.which("redis-server") or shutil.which("valkey-server")


@pytest.fixture(autouse=True)
def _needs_redis_server() -> None:
    if not HAS_REDIS:
        pytest.skip("no redis-server or valkey-server on PATH")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory that is not there yet; a redis-server that a test leaves on it is killed."""
    path = tmp_path / "data"
    yield path
    for process in redis_processes(path):
        process.kill()


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Callable[..., Serving]]:
    """Start `redisai serve` with arguments; what is left of it at the end is killed."""
    running: list[Serving] = []

    def start(*arguments: str | Path, wait: bool = True, environment: dict[str, str] | None = None) -> Serving:
        running.append(Serving(*arguments, environment=environment))
        if wait:
            running[-1].wait_ready()
        return running[-1]

    yield start
    for serving in running:
        serving.close()


@pytest.fixture
def faulty_site(tmp_path: Path) -> Path:
    info = tmp_path / "faulty_backend-1.0.dist-info"
    info.mkdir()
    (tmp_path / "faulty_backend.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty_backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[redisai_py.backends]\nfaulty = faulty_backend:Backend\n")
    return tmp_path


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Check what the onlookers saw of a fault, and put it into the table at the end of the output."""

    def note(event: str, others: Onlookers, well_s: float) -> None:
        pause_s = others.pause_s()
        record_property("fault", (event, pause_s, well_s))
        assert others.errors == []
        assert others.calls > 20
        assert pause_s < 1.0

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    rows = [value for report in reports for name, value in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.write_line(
            "\n| event | longest pause of 20 other clients | all is well after |\n|---|---|---|"
        )
    for event, pause_s, well_s in rows:
        terminalreporter.write_line(f"| {event} | {pause_s:.2f} s | {well_s:.2f} s |")


@pytest.fixture
def isolated(serve: Serve, data_dir: Path, faulty_site: Path) -> Iterator[Callable[..., Serving]]:
    """Start a server with isolation; at the end no process of it may be left."""
    started: list[tuple[Serving, list[psutil.Process]]] = []

    def start(*arguments: str | int | Path, mode: str | None = "all") -> Serving:
        words = () if mode is None else ("--isolation", mode)
        serving = serve("--data-dir", data_dir, *words, *arguments, environment=search_path(faulty_site))
        with serving.client() as client:
            client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
            client.execute_command("AI.TENSORSET", "onlooker:in", "FLOAT", 1, "VALUES", 1)
            client.execute_command("AI.TENSORSET", "bad", "FLOAT", 1, "VALUES", -1)
        started.append((serving, []))
        return serving

    yield start
    for serving, _ in started:
        if serving.process.poll() is None:
            children = serving.supervisor.children(recursive=True)
            assert serving.stop() == 0, serving.stderr
            for process in children:
                wait_until_gone(process)
