"""Workers as processes of their own, against a real Redis with our server in front of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from redisai_py.jobs.queue import Job, Queue
from tests.support import FrontDoor, RedisServer, redis_binaries
from tests.waiting import until

for _needed in ("sklearn", "skl2onnx", "matplotlib"):
    pytest.importorskip(_needed)

PATIENCE_S = 120


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(found.values())), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def front_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    yield server
    server.stop()


@pytest.fixture
def url(front_door: FrontDoor, bare: redis.Redis) -> str:
    return f"redis://127.0.0.1:{front_door.port}"


@pytest.fixture
def queue(bare: redis.Redis) -> Queue:
    return Queue(bare)


class Worker:
    """`redisai worker` in a session of its own, so that it can be killed with all it started."""

    def __init__(self, url: str, log: Path, *options: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "redisai_py", "worker", "--url", url, "--claim-after", "2", *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True, env=dict(os.environ)
            )

    def kill(self) -> None:
        """kill -9 of the worker alone: what it started has to notice."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def begin(*options: str) -> Worker:
        started.append(Worker(url, tmp_path / f"worker{len(started)}.log", *options))
        return started[-1]

    yield begin
    for worker in started:
        worker.stop()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker of the session may read."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def _worker(front_door: FrontDoor, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    url = f"redis://127.0.0.1:{front_door.port}"
    worker = Worker(url, tmp_path_factory.mktemp("log") / "log", "--data", str(data), "--name", "lasting")
    yield worker
    assert worker.stop() == 0


@pytest.fixture
def worker(_worker: Worker, bare: redis.Redis) -> Worker:
    """One for all tests that need no worker of their own: the database is emptied under its hands."""
    return _worker


def wait_for(what: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until(what, "waited in vain", seconds=patience_s, every_s=0.05)


def ended(queue: Queue, job: str) -> Job:
    wait_for(lambda: queue.get(job).ended)
    return queue.get(job)
