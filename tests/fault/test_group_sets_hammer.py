"""What is written together, hammered: whatever a foreign writer holds under a key stays until it deletes it itself.

Clients of two front doors send pipelines of AI.TENSORSET to keys under which others put strings, hashes and lists, each
under keys of its own; these read them back many times before they delete them.
"""

from __future__ import annotations

import random
import threading
import time

import pytest
import redis

from tests.rows import WRONGTYPE, group_writes, rows, warm
from tests.support import FrontDoor
from tests.wire import Wire, numbers

KEYS = [f"h{n}" for n in range(10)]
_SECONDS = 4
_SLOW_SECONDS = 20
_LOOKS = 10
_FREE_S = 0.06
"""How long a key is free at most: pipelines are written together now and then."""


class _Field:
    """Everybody who writes, and what they have seen."""

    def __init__(self, redis_port: int, seconds: float) -> None:
        self.redis_port = redis_port
        self.end = time.monotonic() + seconds
        self.wrong: list[str] = []
        self.refused = 0
        self.written = 0
        self.foreign = 0

    @property
    def goes_on(self) -> bool:
        """Whether time is left, and nothing has gone wrong."""
        return time.monotonic() < self.end and not self.wrong

    def write(self, port: int, base: int) -> None:
        """Pipelines of tensors, at times of one key only."""
        number = base
        with Wire(port) as client:
            while self.goes_on:
                number += 1
                keys = random.choices(KEYS, k=random.choice((4, 10, 16, 40)))
                for reply in client.pipeline(rows(keys, number)):
                    if reply == b"OK":
                        self.written += 1
                    elif str(reply) == WRONGTYPE:
                        self.refused += 1
                    else:
                        self.wrong.append(str(reply))

    def occupy(self, keys: list[str]) -> None:
        """Put something else under the keys, look whether it stays, and give them free."""
        with Wire(self.redis_port) as client:
            while self.goes_on:
                key = random.choice(keys)
                mark = str(random.random())
                fill, look = random.choice(
                    (
                        (("SET", key, mark), ("GET", key)),
                        (("HSET", key, "field", mark), ("HGET", key, "field")),
                        (("RPUSH", key, mark), ("LINDEX", key, "0")),
                    )
                )
                client.pipeline([("MULTI",), ("DEL", key), fill, ("EXEC",)])
                for _ in range(_LOOKS):
                    if client(*look) != mark.encode():
                        self.wrong.append(f"{fill} was overwritten")
                        return
                self.foreign += 1
                client("DEL", key)
                threading.Event().wait(random.uniform(0, _FREE_S))


def _hammer(doors: list[FrontDoor], bare: redis.Redis, seconds: float) -> None:
    for door in doors:
        with Wire(door.port) as client:
            warm(client, bare, "h0")
    before = group_writes(bare)
    field = _Field(bare.connection_pool.connection_kwargs["port"], seconds)
    threads = [threading.Thread(target=field.write, args=(doors[n % 2].port, 10_000 * n)) for n in range(4)]
    threads += [threading.Thread(target=field.occupy, args=(keys,)) for keys in (["h1", "h2"], ["h3"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert field.wrong == []
    assert group_writes(bare) > before
    assert field.refused
    assert field.written
    assert field.foreign
    for key in KEYS:
        if raw := bare.get(key):
            assert numbers(raw), "whole tensors only"  # type: ignore[arg-type]  # redis-py's types admit of an awaitable


def test_hammer(doors: list[FrontDoor], bare: redis.Redis) -> None:
    _hammer(doors, bare, _SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(_SLOW_SECONDS + 60)
def test_hammer_for_long(doors: list[FrontDoor], bare: redis.Redis) -> None:
    _hammer(doors, bare, _SLOW_SECONDS)
