"""Training against a real Redis, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from redisai_py.artifacts import Store
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries


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
    """Our server in front of that one."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    yield server
    server.stop()


@pytest.fixture
def store(bare: redis.Redis) -> Store:
    return Store(bare, actor="ann@lab")
