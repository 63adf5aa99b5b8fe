from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving, redis_processes

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
