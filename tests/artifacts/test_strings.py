"""Large strings past redis-py's copies: the same values and errors as with it, whatever Redis answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cache import CacheConfig

from redisai_py import Client
from redisai_py.artifacts.strings import MAX_STRING, ReceiveBuffer, set_strings
from tests.proxy import Proxy
from tests.support import FrontDoor, RedisServer, redis_binaries, version_of

SIZES = (1, 300_000, 16_384, 2_000_000, 7)


@pytest.fixture
def values() -> dict[str, bytes]:
    return {f"key-{number}": os.urandom(size) for number, size in enumerate(SIZES)}


def read(link: redis.Redis, wanted: dict[str, int]) -> list[bytes | None]:
    return [
        None if value is None else bytes(value)
        for value in ReceiveBuffer().read(link, list(wanted), list(wanted.values()))
    ]


def sizes_of(values: dict[str, bytes]) -> dict[str, int]:
    return {key: len(value) for key, value in values.items()}


@pytest.mark.parametrize(
    "settings", [{}, {"protocol": 3}, {"single_connection_client": True}, {"decode_responses": False}]
)
def test_what_was_set_is_read_again(bare: redis.Redis, values: dict[str, bytes], settings: dict[str, object]) -> None:
    port = bare.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, **settings) as link:  # type: ignore[call-overload]  # redis-py's own settings
        set_strings(link, [(key, memoryview(value)) for key, value in values.items()])
        assert bare.mget(values) == list(values.values())
        connected = link.info("stats")["total_connections_received"]  # type: ignore[index]  # redis-py's union
        for _ in range(2):
            assert read(link, sizes_of(values)) == list(values.values())
        assert link.info("stats")["total_connections_received"] == connected  # type: ignore[index]  # used again


def test_with_redis_pys_cache(tmp_path: Path, values: dict[str, bytes]) -> None:
    binaries = [binary for binary in redis_binaries().values() if version_of(binary).startswith("Redis 8")]
    if not binaries:
        pytest.skip("redis-py caches with Redis 7.4 or later")
    server = RedisServer(binaries[0], tmp_path)
    try:
        with redis.Redis(port=server.port, protocol=3, cache_config=CacheConfig()) as link:
            set_strings(link, list(values.items()))
            assert read(link, sizes_of(values)) == list(values.values())
            assert link.ping()
    finally:
        server.stop()


def test_through_our_server(front_door: FrontDoor, bare: redis.Redis, values: dict[str, bytes]) -> None:
    with Client(port=front_door.port) as link:
        set_strings(link, list(values.items()))
        assert read(link, sizes_of(values)) == list(values.values())


@pytest.mark.parametrize("place", range(len(SIZES)))
@pytest.mark.parametrize("change", [{"absent": 0}, {"shorter": -1}, {"longer": 1}], ids=str)
def test_another_reply_than_expected(
    bare: redis.Redis, values: dict[str, bytes], place: int, change: dict[str, int]
) -> None:
    key = f"key-{place}"
    bare.mset(values)  # type: ignore[arg-type]  # redis-py's types know no texts as keys
    wanted = sizes_of(values)
    if "absent" in change:
        bare.delete(key)
    else:
        wanted[key] += next(iter(change.values()))
    assert read(bare, wanted) == bare.mget(values)
    assert bare.ping()


def test_nothing_and_too_much(bare: redis.Redis) -> None:
    bare.set("key", b"value")
    assert list(ReceiveBuffer().read(bare, [], [])) == []
    assert read(bare, {"key": MAX_STRING + 1}) == [b"value"]  # and no room is made for what a stranger says


def test_a_reader_that_leaves_takes_its_connection_along(bare: redis.Redis, values: dict[str, bytes]) -> None:
    bare.mset(values)  # type: ignore[arg-type]
    coming = ReceiveBuffer().read(bare, list(values), list(sizes_of(values).values()))
    assert bytes(next(coming)) == values["key-0"]
    coming.close()  # type: ignore[attr-defined]  # a generator
    assert bare.get("key-4") == values["key-4"]
    assert read(bare, sizes_of(values)) == list(values.values())


def test_errors_are_redis_pys(bare: redis.Redis, redis_server: RedisServer, values: dict[str, bytes]) -> None:
    bare.execute_command("ACL", "SETUSER", "nobody", "on", ">pw", "+ping", "+set", "~key-0")
    with redis.Redis(port=redis_server.port, username="nobody", password="pw") as link:
        with pytest.raises(redis.exceptions.NoPermissionError):
            read(link, sizes_of(values))
        with pytest.raises(redis.exceptions.NoPermissionError):
            set_strings(link, list(values.items()))
        assert link.ping()
    assert bare.get("key-0") == values["key-0"]
    assert bare.exists("key-1") == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(next(iter(redis_binaries().values())), tmp_path, "--maxmemory", "20mb")
    yield server
    server.stop()


def test_a_full_redis(small: RedisServer) -> None:
    with redis.Redis(port=small.port) as link:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            set_strings(link, [(f"key-{number}", b"x" * 4_000_000) for number in range(8)])
        assert link.ping()
        assert 0 < len(link.keys()) < 8


def test_a_connection_that_is_cut_in_the_middle(redis_server: RedisServer, bare: redis.Redis) -> None:
    values = {f"key-{number}": os.urandom(1_000_000) for number in range(4)}
    bare.mset(values)  # type: ignore[arg-type]
    proxy = Proxy(redis_server.port)
    try:
        with redis.Redis(port=proxy.port) as link:
            assert link.ping()
            proxy.cut_after(2_500_000)
            assert read(link, sizes_of(values)) == list(values.values())
    finally:
        proxy.close()
