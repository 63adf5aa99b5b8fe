"""Data sets against a real Redis, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from redisai_py.artifacts import Store
from tests.support import RedisServer, redis_binaries


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One stock Redis: which one it is, these tests cannot tell."""
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(found.values())), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def store(bare: redis.Redis) -> Store:
    return Store(bare, actor="ann@lab")


@pytest.fixture
def url(store: Store) -> str:
    where = store.redis.connection_pool.connection_kwargs
    return f"unix://{where['path']}" if "path" in where else f"redis://{where['host']}:{where['port']}"


def rows(count: int = 1000, first: int = 0) -> dict[str, NDArray[Any]]:
    """Rows that are numbered from `first`, in the column y."""
    random = np.random.default_rng(first)
    return {
        "x": random.random((count, 8)).astype(np.float32),
        "y": np.arange(first, first + count),
        "word": np.array(["a", "b"] * (count // 2), object),
    }
