"""Datasets and aggregation lists as SmartRedis lays them out, read through our server as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
import torch

from redisai_py import Client
from redisai_py.artifacts import Invalid, Missing, Store
from redisai_py.config import Config
from redisai_py.datasets.smartsim import SmartSimList
from redisai_py.datasets.torch import SmartSimDataset
from tests.support import FrontDoor, RedisServer


@pytest.fixture(scope="module")
def door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    yield server
    server.stop()


@pytest.fixture
def served(door: FrontDoor, bare: redis.Redis) -> str:
    return f"redis://127.0.0.1:{door.port}"


def simulate(url: str, member: str = "", braces: bool = False) -> None:
    """Three datasets of 40, 50 and 60 rows, as a simulation's ranks put them."""
    start = f"{member}." if member else ""
    with Client.from_url(url) as con:
        first = 0
        for rank, rows in enumerate((40, 50, 60)):
            name = f"rank-{rank}[a]"
            con.tensorset(f"{start}{{{name}}}.samples", np.full((rows, 4), rank, np.float32))
            con.tensorset(f"{start}{{{name}}}.targets", np.arange(first, first + rows))
            con.hset(f"{start}{{{name}}}.meta", "step", "7")
            con.rpush(f"{start}training_data", f"{start}{{{name}}}" if braces else name)
            first += rows


@pytest.mark.parametrize(("member", "braces"), [("", False), ("", True), ("ens_0", False), ("ens_0", True)])
def test_a_list_is_read_as_it_is(served: str, bare: redis.Redis, member: str, braces: bool) -> None:
    simulate(served, member, braces)
    keys = sorted(bare.keys())
    data = SmartSimDataset(served, "training_data", batch_size=30, prefix=member)
    assert (data.columns, len(data)) == (["samples", "targets"], 5)
    epochs = [list(data) for _ in range(2)]
    for batches in epochs:
        rows = torch.cat([batch["targets"] for batch in batches])
        assert sorted(rows.tolist()) == list(range(150))
        ranks = torch.cat([batch["samples"][:, 0] for batch in batches])
        assert torch.equal(ranks, (rows >= 40).float() + (rows >= 90).float())
    assert not torch.equal(epochs[0][0]["targets"], epochs[1][0]["targets"])
    again = SmartSimDataset(served, "training_data", batch_size=30, prefix=member, columns=["targets"])
    parts = [
        list(SmartSimDataset(served, "training_data", batch_size=30, prefix=member, rank=r, ranks=2)) for r in (0, 1)
    ]
    for one, two, whole in zip(*parts, again, strict=True):
        assert torch.equal(torch.cat([one["targets"], two["targets"]]), whole["targets"])
    assert sorted(bare.keys()) == keys  # nothing is written


def test_workers_have_their_own_connections(served: str) -> None:
    simulate(served)
    expected = [batch["targets"].tolist() for batch in SmartSimDataset(served, "training_data", batch_size=30)]
    loader = SmartSimDataset(served, "training_data", batch_size=30).loader(2)
    assert [batch["targets"].tolist() for batch in loader] == expected


def test_what_is_wrong_is_said(served: str, bare: redis.Redis) -> None:
    simulate(served)
    store = Store(served)
    with pytest.raises(Missing, match="no aggregation list nope"):
        SmartSimList.open(store, "nope")
    with pytest.raises(Missing, match=r"tensor \{rank-0\[a\]\}.nope"):
        SmartSimList.open(store, "training_data", ["nope"])
    with pytest.raises(Missing, match="is this the address of a plain Redis"):
        SmartSimList.open(Store(bare), "training_data")
    found = SmartSimList.open(store, "training_data")
    with Client.from_url(served) as con:
        con.tensorset("{rank-1[a]}.samples", np.zeros((50, 5), np.float32))
        with pytest.raises(Invalid, match=r"\{rank-1\[a\]\}.samples is float32\[5\] a row.* has float32\[4\]"):
            SmartSimList.open(store, "training_data")
        with pytest.raises(Invalid, match="samples is float32"):
            found.fetch(found.shards())
        con.tensorset("{rank-1[a]}.samples", np.zeros((49, 4), np.float32))
        with pytest.raises(Invalid, match="different numbers of rows"):
            SmartSimList.open(store, "training_data")
        con.delete("{rank-1[a]}.samples")
        with pytest.raises(Missing, match=r"tensor \{rank-1\[a\]\}.samples"):
            found.fetch(found.shards())
    with pytest.raises(Missing, match="has no split test"):
        found.shards("test")
    settings: Any = {"follow": True}
    with pytest.raises(Invalid, match="can neither be followed"):
        SmartSimDataset(served, "training_data", **settings)
