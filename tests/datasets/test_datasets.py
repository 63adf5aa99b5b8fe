"""Data sets in a real Redis: written, appended, sealed, split, and read by workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redisai_py.artifacts import Conflict, Corrupt, Invalid, Missing, Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.split import Split
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import Writer, put, split
from tests.datasets.conftest import rows

SHARD = 16 * 1024


def test_a_version_gives_back_its_rows(store: Store) -> None:
    version = put(store, "clicks", rows(), shard_bytes=SHARD)
    found = Dataset.open(store, "clicks@latest")
    assert (found.rows, len(found.shards()) > 2) == (1000, True)
    for name, values in rows().items():
        np.testing.assert_array_equal(found.read()[name], values)
    assert found.head(3)["y"].tolist() == [0, 1, 2]
    assert put(store, "clicks", rows(), shard_bytes=SHARD).version == version.version  # the same content


def test_splits(store: Store) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    before = store.redis.dbsize()
    version = split(store, Dataset.open(store, "clicks"), Split(test=0.2, stratify="word"))
    found = Dataset.open(store, str(version))
    assert found.splits == {"train": 800, "test": 200}
    both = np.concatenate([found.read("train")["y"], found.read("test")["y"]])
    assert sorted(both) == list(range(1000))
    with pytest.raises(Missing, match="no split dev; splits: train, test"):
        found.read("dev")
    assert store.redis.dbsize() > before


def test_nothing_is_written_of_rows_that_do_not_fit(store: Store) -> None:
    writer = Writer(store, "live", Schema.of(rows()))
    keys = store.redis.dbsize()
    with pytest.raises(Invalid, match="column y"):
        writer.append({**rows(), "y": np.zeros(1000)})
    with pytest.raises(Conflict, match="other columns"):
        Writer(store, "live", Schema.of({"x": np.zeros(3)}))
    with pytest.raises(Missing):
        Writer(store, "unknown")
    assert store.redis.dbsize() == keys


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_do_not_change_the_order(store: Store, url: str, workers: int) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    plain = RedisDataset(url, "clicks", batch_size=96)
    expected = [[batch["y"].tolist() for batch in plain] for _ in range(2)]
    assert expected[0] != expected[1]
    loader = RedisDataset(url, "clicks", batch_size=96).loader(workers)
    assert [[batch["y"].tolist() for batch in loader] for _ in range(2)] == expected
    seen = [y for batch in expected[0] for y in batch]
    assert sorted(seen[:1000]) == list(range(1000))  # the rest repeats the first ones


def test_ranks_share_each_step(store: Store, url: str) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    whole = [batch["y"] for batch in RedisDataset(url, "clicks", batch_size=96)]
    parts = [list(RedisDataset(url, "clicks", batch_size=96, rank=rank, ranks=3)) for rank in range(3)]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step]["y"] for part in parts]), batch)
    with pytest.raises(ValueError, match="7 ranks cannot share"):
        RedisDataset(url, "clicks", batch_size=96, rank=0, ranks=7)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_where_it_was(store: Store, url: str, workers: int) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    expected = [batch["y"].tolist() for batch in RedisDataset(url, "clicks", batch_size=96)]
    loader = RedisDataset(url, "clicks", batch_size=96).loader(workers)
    batches = iter(loader)
    seen = [next(batches)["y"].tolist() for _ in range(4)]
    state = loader.state_dict()
    put(store, "clicks", rows(100), shard_bytes=SHARD)  # a newer version does not concern it
    again = RedisDataset(url, "clicks:1", batch_size=96)
    again.load_state_dict(state)
    assert seen + [batch["y"].tolist() for batch in again.loader(workers)] == expected
    assert again.state_dict()["epoch"] == 1
    with pytest.raises(Invalid, match="rows would be repeated"):
        RedisDataset(url, "clicks", batch_size=96).load_state_dict(state)


def test_a_shard_that_is_gone_or_changed_is_named(store: Store, url: str) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    shard = Dataset.open(store, "clicks").shards()[1]
    key = store.keys.blob(shard.layer.digest)
    data: Any = store.redis.get(key)
    store.redis.set(key, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Corrupt, match=f"data set clicks:1, shard 1.*{shard.layer.digest}"):
        list(RedisDataset(url, "clicks", batch_size=96))
    store.redis.delete(key)
    with pytest.raises(Missing, match=f"data set clicks:1, shard 1.*{shard.layer.digest}"):
        list(RedisDataset(url, "clicks", batch_size=96))


def test_texts_are_no_tensors(store: Store, url: str) -> None:
    put(store, "clicks", rows(), shard_bytes=SHARD)
    assert RedisDataset(url, "clicks").columns == ["x", "y"]
    with pytest.raises(Invalid, match="column word holds strings"):
        RedisDataset(url, "clicks", columns=["word"])
    with pytest.raises(Invalid, match="no column nope; it has x, y, word"):
        list(RedisDataset(url, "clicks", columns=["nope"]))
