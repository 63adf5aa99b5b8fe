"""kill -9 at each point of put, append and seal: no half of a version is ever seen, and a second try completes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis

from redisai_py.artifacts import Archive, Store, collect, reachable, roots
from redisai_py.datasets.dataset import KIND, Dataset
from redisai_py.datasets.tail import START, Tail
from tests.artifacts.building import blobs_of
from tests.artifacts.killed import PHASES, prepare, rows, run
from tests.support import RedisServer

POINTS = 15


def versions(store: Store) -> dict[int, list[int]]:
    """The batches that each version consists of. Fails if one has half of a batch."""
    found = {}
    for version in store.registry(KIND).versions("rides"):
        read = Dataset.open(store, str(version)).read()
        batches = list(dict.fromkeys(read["version"].tolist()))
        for name, values in read.items():
            assert np.array_equal(values, np.concatenate([rows(batch)[name] for batch in batches])), version
        found[version.version] = batches
    return found


def tail(store: Store) -> int:
    """Batches that were appended and are not sealed. Fails if there is half of one."""
    newest = Dataset.open(store, "rides")
    shards = list(Tail(store, "rides").read(newest.sealed or START))
    values = [newest.fetch([shard])[0]["row"] for shard in shards]
    count = sum(map(len, values))
    assert count % 1000 == 0
    if count:
        assert np.array_equal(np.concatenate(values), np.tile(rows(2)["row"], count // 1000))
    return count // 1000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", ["dataset put", "dataset append", "dataset seal"])
def test_killed_and_tried_again(operation: str, redis_server: RedisServer, tmp_path: Path) -> None:
    with redis.Redis(port=redis_server.port) as one, redis.Redis(port=redis_server.port, db=1) as two:
        store, other = Store(one, actor="ann"), Store(two, actor="ann")

        def fresh() -> None:
            one.flushall()
            prepare(operation, store, other, Archive(tmp_path))

        fresh()
        steps = run(operation, redis_server.port, tmp_path)
        assert steps is not None
        expected, appended = versions(store), tail(store)
        every = [(step, phase) for step in range(1, steps + 1) for phase in PHASES]
        points = sorted({round(place * (len(every) - 1) / (POINTS - 1)) for place in range(POINTS)})
        killed = 0
        for step, phase in (every[point] for point in points):
            fresh()
            killed += run(operation, redis_server.port, tmp_path, step, phase) is None
            assert versions(store).items() <= expected.items(), (step, phase)
            before = tail(store)
            if operation != "dataset seal" or versions(store) != expected:  # else nothing is left to seal
                assert run(operation, redis_server.port, tmp_path) is not None
            assert versions(store) == expected, (step, phase)
            assert tail(store) == (before + 1 if operation == "dataset append" else appended), (step, phase)
            store.redis.delete(store.keys.leases)  # an hour later
            collect(store)
            assert blobs_of(store) <= reachable(store, roots(store))  # nothing is left over
        assert killed >= len(points) - 2
