"""Pipelines against a real Redis with our server in front of it, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py import Client
from redisai_py.config import Config
from tests.pipeline.tables import patients, write_csv
from tests.support import FrontDoor, RedisServer, redis_binaries

for _needed in ("sklearn", "skl2onnx", "onnxmltools", "matplotlib"):
    pytest.importorskip(_needed)


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
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Client]:
    with Client(port=front_door.port) as found:
        yield found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `patients.csv`."""
    found = tmp_path_factory.mktemp("tables")
    write_csv(found / "patients.csv", patients())
    return found
