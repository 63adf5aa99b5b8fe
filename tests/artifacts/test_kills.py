"""kill -9 at each of twenty points of every operation: nothing half visible, and running it again completes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from redisai_py.artifacts import Archive, Store, collect, reachable, roots
from redisai_py.artifacts.inspect import verify
from redisai_py.artifacts.transfer import collect_archive
from tests.artifacts.building import blobs_of
from tests.artifacts.killed import OPERATIONS, PHASES, prepare, readable, run
from tests.support import RedisServer

POINTS = 20


def points(steps: int) -> list[tuple[int, str]]:
    """Twenty, spread over all steps and over what a kill may cut; the first and the last among them."""
    every = [(step, phase) for step in range(1, steps + 1) for phase in PHASES]
    if len(every) <= POINTS:
        return every
    return [every[round(place * (len(every) - 1) / (POINTS - 1))] for place in range(POINTS)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if not name.startswith("dataset")])
def test_killed_and_run_again(operation: str, redis_server: RedisServer, tmp_path: Path) -> None:
    with redis.Redis(port=redis_server.port) as one, redis.Redis(port=redis_server.port, db=1) as two:
        store, other = Store(one, actor="ann"), Store(two, actor="ann")

        def fresh(place: int) -> Path:
            one.flushall()
            folder = tmp_path / str(place)
            prepare(operation, store, other, Archive(folder))
            return folder

        steps = run(operation, redis_server.port, fresh(0))
        assert steps is not None
        expected = (readable(store), readable(other), store.registry("artifact").pointed("cancer", "production"))
        killed = 0
        for place, (step, phase) in enumerate(points(steps), 1):
            folder = fresh(place)
            before = (readable(store), readable(other))
            survived = run(operation, redis_server.port, folder, step, phase)
            killed += survived is None
            for which, (was, shall) in zip((store, other), zip(before, expected[:2], strict=True), strict=True):
                for version, contents in readable(which).items():
                    assert contents == shall.get(version, was.get(version)), (step, phase)
            _nothing_is_broken(store, other, Archive(folder))
            _forget_the_collector(Archive(folder))
            assert run(operation, redis_server.port, folder) is not None
            after = (readable(store), readable(other), store.registry("artifact").pointed("cancer", "production"))
            assert after == expected, (step, phase)
            _nothing_is_left(store, other, Archive(folder))
        assert killed >= min(POINTS, 3 * steps) - 4, "a step that happens only at times may not have come"


def _nothing_is_broken(store: Store, other: Store, archive: Archive) -> None:
    for which in (store, other):
        for name in which.registry("artifact").names():
            assert verify(which, which.registry("artifact").versions(name)) == []
    for entry in archive.index()[0].entries:
        manifest = archive.manifest(entry.digest, str(entry))
        assert all(archive.size(blob.digest) == blob.size for blob in manifest.blobs())


def _nothing_is_left(store: Store, other: Store, archive: Archive) -> None:
    """An hour later, when the leases of the killed have run out."""
    for which in (store, other):
        which.redis.delete(which.keys.leases)
        collect(which)
        assert blobs_of(which) == reachable(which, roots(which)) - _in_parts(which)
    collect_archive(archive, older_s=0)
    needed = set()
    for entry in archive.index()[0].entries:
        needed |= {entry.digest, *(blob.digest for blob in archive.manifest(entry.digest, str(entry)).blobs())}
    assert set(archive.blobs()) == needed


def _forget_the_collector(archive: Archive) -> None:
    """What a minute does."""
    index, seen = archive.index()
    if index.collecting is not None:
        assert archive.replace(replace(index, collecting=index.collecting - 60), seen)


def _in_parts(store: Store) -> set[str]:
    """Digests of blobs that are there as lists of parts."""
    return {key.decode()[9:] for key in store.redis.scan_iter("ai:parts:*")}
