"""Collecting takes what nothing reaches, all of it, and nothing else, whoever writes meanwhile."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import redis

from redisai_py.artifacts import Conflict, Missing, Store, collect, digest_of, reachable, roots
from redisai_py.artifacts.leases import HOLD_S, redis_time
from tests.artifacts.building import blobs_of, version_of


def test_what_no_name_reaches_is_deleted(store: Store) -> None:
    version_of(store, "cancer", b"shared", b"one")
    version_of(store, "cancer", b"shared", b"two")
    store.registry("artifact").remove("cancer", [1])
    told = collect(store, dry_run=True)
    assert told.removed == 2  # the layer and the manifest
    assert digest_of(b"one") in told.digests
    assert store.blobs.size(digest_of(b"one")) is not None
    done = collect(store)
    assert (done.removed, done.digests) == (told.removed, told.digests)
    assert done.bytes > 0
    assert blobs_of(store) == reachable(store, roots(store))
    _, manifest = store.open("artifact", "cancer")
    assert [store.read(layer) for layer in manifest.layers] == [b"shared", b"two"]
    assert collect(store).removed == 0


def test_every_kind_is_a_root_and_so_is_a_tail(store: Store) -> None:
    for kind in ("artifact", "dataset", "run"):
        version_of(store, "same", kind.encode(), kind=kind)
    with store.lease() as lease:
        shard = store.blobs.put(b"appended", lease)
        store.redis.xadd(store.keys.tail("dataset", "clicks"), {"blob": shard, "rows": 7})
        store.blobs.put(b"orphan", lease)
    assert collect(store).digests == [digest_of(b"orphan")]
    assert store.blobs.get(shard) == b"appended"


def test_parts_go_with_their_blob_and_stay_with_it(store: Store) -> None:
    data = os.urandom(1 << 20) * 70
    version_of(store, "big", data)
    assert collect(store).removed == 0
    store.registry("artifact").remove("big", [1])
    collect(store)
    assert list(store.redis.scan_iter("ai:blob:*")) == []
    assert list(store.redis.scan_iter("ai:parts:*")) == []


def test_a_running_writer_keeps_its_blobs(store: Store) -> None:
    with store.lease() as lease:
        layer = store.put_layer(b"in flight", "application/x", "w", lease)
        done = collect(store)
        assert (done.removed, done.leased) == (0, 1)
        version = store.commit("artifact", "cancer", store.manifest({}, [layer], lease), lease)
    collect(store)
    assert store.read(store.open("artifact", str(version))[1].layers[0]) == b"in flight"


def test_a_writer_that_was_killed_loses_its_blobs_an_hour_later(store: Store) -> None:
    lease = store.lease()
    store.blobs.put(b"left behind", lease)
    assert collect(store).removed == 0
    key = store.keys.leases
    for member, score in store.redis.zscan_iter(key):
        assert redis_time(store.redis) + HOLD_S - 60 < score < redis_time(store.redis) + HOLD_S + 60
        store.redis.zadd(key, {member: redis_time(store.redis) - 1})
    assert collect(store).removed == 1


def test_leases_leave_nothing_behind_for_long(store: Store) -> None:
    version_of(store, "cancer", b"x")
    for member, score in store.redis.zscan_iter(store.keys.leases):
        store.redis.zadd(store.keys.leases, {member: score - HOLD_S - 10})
    with store.lease() as lease:
        store.blobs.put(b"y", lease)
    assert store.redis.zcard(store.keys.leases) == 1


def test_nothing_is_collected_if_a_manifest_cannot_be_read(store: Store) -> None:
    digest = version_of(store, "cancer", b"x").digest
    with store.lease() as lease:
        store.blobs.put(b"orphan", lease)
    store.redis.setrange(f"ai:blob:{digest}", 0, b"[")
    with pytest.raises(Conflict, match=r"cancer:1.*Nothing was collected"):
        collect(store)
    assert store.blobs.size(digest_of(b"orphan")) is not None
    assert store.blobs.size(digest_of(b"x")) is not None


def test_what_is_missing_does_not_stop_it(store: Store) -> None:
    version_of(store, "cancer", b"evicted")
    store.redis.delete(f"ai:blob:{digest_of(b'evicted')}")
    assert collect(store).removed == 0


def test_other_keys_are_none_of_its_business(store: Store, bare: redis.Redis) -> None:
    bare.mset({"ai:blob:notes": "mine", "ai:blob:sha256:short": "mine", "blob:sha256:" + "0" * 64: "mine"})
    collect(store)
    assert bare.dbsize() == 3


def _publish_read_remove(store: Store, name: str, contents: list[bytes], remove: bool) -> None:
    version_of(store, name, *contents)
    _, manifest = store.open("artifact", name)
    for layer in manifest.layers:
        store.read(layer)
    if remove:
        registry = store.registry("artifact")
        registry.remove(name, [version.version for version in registry.versions(name)])


@pytest.mark.timeout(120)
def test_publishers_and_collectors_at_the_same_time(store: Store) -> None:
    """Few contents, so publishers meet each other's orphans all the time; whatever is published can be read."""
    stop = threading.Event()
    contents = [bytes([number]) * 100 for number in range(12)]

    def publisher(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(60):
            _publish_read_remove(store, f"name-{seed}", chosen.sample(contents, 3), chosen.random() < 0.7)

    def collector(_: int) -> None:
        while not stop.is_set():
            collect(store)

    with ThreadPoolExecutor(6) as pool:
        collectors = [pool.submit(collector, number) for number in range(2)]
        publishers = [pool.submit(publisher, seed) for seed in range(4)]
        wait(publishers)
        stop.set()
    for done in (*publishers, *collectors):
        done.result()
    collect(store)
    for name in store.registry("artifact").names():
        _, manifest = store.open("artifact", name)
        assert all(len(store.read(layer)) == 100 for layer in manifest.layers)
    assert blobs_of(store) == reachable(store, roots(store))


def test_a_name_that_is_gone_has_no_version(store: Store) -> None:
    with pytest.raises(Missing):
        store.open("artifact", "nobody")
