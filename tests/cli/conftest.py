"""The command line against a real server: in this process for breadth, as a program of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import structlog
from typer.testing import CliRunner

from redisai_py import Client
from redisai_py.cli import app
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries

ROOT = Path(__file__).resolve().parents[2]
MUL = ROOT / "examples" / "mul.onnx"


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """What `--json` printed: one document, nothing else."""
        return json.loads(self.stdout)


Redisai = Callable[..., Result]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One stock Redis: which one it is, these tests cannot tell."""
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(found.values())), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def front_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """Our server in front of that one. The fixture for all tests would stay bound to it when their turn comes."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _logs_apart() -> Iterator[None]:
    """What the server in this process logs must not get between what the command prints."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    yield
    structlog.configure(**before)


@pytest.fixture
def url(front_door: FrontDoor, bare: redis.Redis) -> str:
    """Our server, on an empty Redis."""
    return f"redis://127.0.0.1:{front_door.port}"


@pytest.fixture
def redisai(url: str) -> Redisai:
    """Run `redisai` with arguments."""

    def run(*arguments: object) -> Result:
        done = CliRunner(env={"REDISAI_URL": url}).invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def con(url: str, front_door: FrontDoor) -> Any:
    """A client, to see what the commands did."""
    with Client(port=front_door.port) as client:
        yield client


@pytest.fixture
def program(url: str, tmp_path: Path) -> Redisai:
    """Run `redisai` as a process of its own, in an empty directory."""

    def run(*arguments: object, environment: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=55,
            cwd=tmp_path,
            env={**os.environ, "REDISAI_URL": url, **(environment or {})},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def command(*arguments: object) -> Sequence[str]:
    return [sys.executable, "-m", "redisai_py", *(str(argument) for argument in arguments)]


@pytest.fixture
def x(tmp_path: Path) -> Path:
    """A tensor's file, FLOAT [[1.5, 2]]."""
    path = tmp_path / "x.npy"
    np.save(path, np.array([[1.5, 2]], np.float32))
    return path
