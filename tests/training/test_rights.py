"""What docs/training.md says that a trainer needs is enough, and no more than that."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import numpy as np
import pytest
import redis
import torch

from redisai_py.artifacts import Store
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import put
from redisai_py.training import Checkpointer, Run
from tests.source_tree import ROOT
from tests.support import RedisServer


@pytest.fixture
def trainer(store: Store, redis_server: RedisServer) -> Iterator[str]:
    """The URL of a user with the rights of the page."""
    if int(store.redis.info("server")["redis_version"].partition(".")[0]) < 7:
        pytest.skip("%R~ needs Redis 7")
    line = re.search(r"^ACL SETUSER trainer on >password (.*)$", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    assert line is not None
    put(store, "d", {"x": np.arange(100, dtype=np.float32)})
    store.redis.execute_command("ACL", "SETUSER", "trainer", "reset", "on", ">p", *line[1].split())
    yield redis_server.url.replace("redis://", "redis://trainer:p@")
    store.redis.acl_deluser("trainer")


def test_they_are_enough(trainer: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(trainer, "r")
    run.begin(steps=10, lr=0.1)
    data = RedisDataset(trainer, "d@latest", batch_size=10)
    with caplog.at_level(logging.WARNING), Checkpointer(trainer, "r", keep=2, best="loss") as checkpoints:
        for step, batch in enumerate(data.loader()):
            run.report(step, loss=1 / (step + 1))
            values = {"values": torch.full((500_000,), float(batch["x"][0]))}
            checkpoints.save(step, values, loader=data, metrics={"loss": 1 / (step + 1)}).result(30)
        found = checkpoints.load(loader=data)
    run.end()
    assert caplog.messages == []
    assert found is not None
    assert found.step == 9
    assert [version.version for version in store.registry("run").versions("r")] == [8, 9]
    assert run.summary()["state"] == "finished"
    assert len(run.series("loss")) == 10
    assert Run(trainer, "r").summary()["checkpoint.best"] == "9"


def test_they_are_not_too_many(trainer: str) -> None:
    with redis.Redis.from_url(trainer) as client:
        for command in ("SET k 1", "GET k", "HSET ai:dataset:d 1 x", "HSET ai:artifact:a 1 x", "KEYS *", "FLUSHALL"):
            with pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError), match="permissions"):
                client.execute_command(*command.split())
