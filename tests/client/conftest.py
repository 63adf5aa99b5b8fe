"""One body of tests for both clients: `make_client` gives either, with the methods of the asyncio one made blocking."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from redisai_py import AsyncClient, Client
from tests.support import FrontDoor, RedisServer


class Blocking:
    """An object of the asyncio client, whose coroutines are run to their end where they are called."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self._loop = loop

    def wait(self, awaitable: Any) -> Any:
        """What something that the asyncio client gave turns out to be."""
        return self._loop.run_until_complete(_wait(awaitable))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if inspect.isawaitable(result) and not isinstance(result, redis.asyncio.Redis):
                return self.wait(result)
            if result is self.target:
                return self
            return Blocking(result, self._loop) if hasattr(result, "tensorget") else result

        return call


async def _wait(awaitable: Any) -> Any:
    return await awaitable


@pytest.fixture(params=["Client", "AsyncClient"])
def make_client(
    request: pytest.FixtureRequest, front_door: FrontDoor, bare: redis.Redis
) -> Iterator[Callable[..., Any]]:
    """Make a client of our server on an empty Redis; all are closed after the test."""
    loop = asyncio.new_event_loop()
    closing: list[Callable[[], Any]] = []

    def make(**options: Any) -> Any:
        options = {"port": front_door.port, **options}
        if request.param == "Client":
            client = Client(**options)
            closing.append(client.close)
            return client
        blocking = Blocking(AsyncClient(**options), loop)
        closing.append(blocking.aclose)
        return blocking

    yield make
    for close in closing:
        close()
    loop.close()


@pytest.fixture
def con(make_client: Callable[..., Any]) -> Any:
    """A client as most people make it."""
    return make_client()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The Redis behind our server."""
    return redis_server.url
