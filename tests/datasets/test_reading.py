"""What a reader needs besides its rows: bounded memory, connections of its own, and an archive."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redisai_py.artifacts import Archive, Artifacts, Corrupt, Missing, Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import Writer, put
from tests.datasets.conftest import rows

MIB = 1024 * 1024
SHARD = 16 * 1024


def test_memory_is_bounded_by_what_is_fetched_ahead(store: Store, url: str) -> None:
    size = 48 * MIB
    put(store, "large", {"x": np.random.default_rng(0).random((size // 1024, 256), dtype=np.float32)}, compress=False)
    data = RedisDataset(url, "large", batch_size=64, block_shards=2, ahead=2)
    tracemalloc.start()
    try:
        for batch in data:
            assert batch["x"].shape == (64, 256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two blocks of 2 MiB ahead, one in use, and the replies that one of them is being made of.
    assert 4 * MIB <= peak < 16 * MIB


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_each_fork_opens_its_own_connection(store: Store, url: str) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)

    class Told(RedisDataset):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                link = self._connected().store.redis
                yield {**batch, "client": torch.tensor([os.getpid(), link.client_id()])}

    data = Told(url, "clicks", batch_size=96)
    next(iter(data))  # the parent's connection is in use
    own = (os.getpid(), data._connected().store.redis.client_id())
    loader = data.loader(2)
    seen = {tuple(batch["client"].tolist()) for batch in loader}
    assert len(seen) == 2
    assert len({pid for pid, _ in seen} | {own[0]}) == 3
    assert len({client for _, client in seen} | {own[1]}) == 3


def test_it_goes_to_processes_that_are_not_forked(store: Store, url: str) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    data = RedisDataset(url, "clicks", batch_size=96)
    sent = pickle.loads(pickle.dumps(data))
    for one, other in zip(data, sent, strict=True):
        assert torch.equal(one["x"], other["x"])


def test_a_lost_shard_is_read_from_the_archive(store: Store, url: str, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    put(store, "clicks", rows(), shard_bytes=SHARD)
    expected = [batch["x"] for batch in RedisDataset(url, "clicks", batch_size=96)]
    with Artifacts(store.redis) as artifacts:
        artifacts.push(["clicks"], Archive(tmp_path / "archive"), "dataset")
    shards = Dataset.open(store, "clicks").shards()
    store.redis.delete(store.keys.blob(shards[0].layer.digest))
    store.redis.setrange(store.keys.blob(shards[1].layer.digest), 200, b"no")
    for archive in (None, str(tmp_path / "archive")):  # it is known where the version was pushed to
        found = RedisDataset(url, "clicks", batch_size=96, archive=archive)
        assert all(torch.equal(batch["x"], x) for batch, x in zip(found, expected, strict=True))
    lost = tmp_path / "archive" / "blobs" / "sha256" / shards[0].layer.digest[7:]
    lost.unlink()
    with pytest.raises(Missing, match=f"shard 0: blob {shards[0].layer.digest} .*and from its archive"):
        Dataset.open(store, "clicks").read()
    (tmp_path / "archive" / "blobs" / "sha256" / shards[1].layer.digest[7:]).unlink()
    with pytest.raises(Corrupt, match="shard 1 in Redis is damaged") as caught:
        Dataset.open(store, "clicks").fetch([shards[1]])
    assert caught.value.expected == shards[1].layer.digest


def test_a_version_moves_to_another_redis_whole(store: Store, url: str, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    put(store, "clicks", rows(), shard_bytes=SHARD, aliases=["good"])
    writer = Writer(store, "clicks")
    writer.append(rows(100, 1000))
    writer.seal()
    archive = Archive(tmp_path / "archive")
    with Artifacts(store.redis) as artifacts:
        artifacts.push(["clicks"], archive, "dataset")
        store.redis.flushall()
        artifacts.pull(archive, None, "dataset")
        assert artifacts.gc().removed == 0
    assert Dataset.open(store, "clicks@good").rows == 1000
    assert Dataset.open(store, "clicks").read()["y"].tolist() == list(range(1100))
    writer = Writer(store, "clicks")  # it goes on behind what was sealed before
    writer.append(rows(100, 1100))
    writer.seal()
    assert Dataset.open(store, "clicks").read()["y"].tolist() == list(range(1200))


def test_shards_grow_before_a_manifest_becomes_too_large(store: Store) -> None:
    version = put(store, "many", {"x": np.zeros(20_000, np.uint8)}, shard_bytes=1)
    found = Dataset.open(store, str(version))
    assert 4000 <= len(found.shards()) <= 4096 + 1
    assert found.rows == 20_000


def test_an_evicted_version_is_read_from_its_archive(store: Store, url: str, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    put(store, "clicks", rows(), shard_bytes=SHARD)
    expected = Dataset.open(store, "clicks").read()["y"]
    archive = Archive(tmp_path / "archive")
    with Artifacts(store.redis) as artifacts:
        artifacts.push(["clicks"], archive, "dataset")
        assert artifacts.evict(["clicks:1"], archive, "dataset").removed == len(Dataset.open(store, "clicks").shards())
        assert [entry.event for entry in store.registry("dataset").log("clicks", 1)] == ["evict"]
    np.testing.assert_array_equal(Dataset.open(store, "clicks").read()["y"], expected)
    assert len(list(RedisDataset(url, "clicks", batch_size=100))) == 10
