"""What several of these modules put between themselves and Redis; others have a `proxy` or `doors` of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redisai_py.config import Config
from tests.proxy import Proxy
from tests.support import FrontDoor, RedisServer


@pytest.fixture(scope="module")
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """To stand between a front door and Redis."""
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def doors(redis_server: RedisServer) -> Iterator[list[FrontDoor]]:
    """Two sidecars on one Redis."""
    servers = [FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1)) for _ in range(2)]
    yield servers
    for server in servers:
        server.stop()
