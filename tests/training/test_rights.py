"""What docs/training.md says that a trainer needs is enough, and no more than that."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import numpy as np
import pytest
import redis
import torch
from typer.testing import CliRunner

from redisai_py.artifacts import Store
from redisai_py.cli import app
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import put
from redisai_py.training import Checkpointer, Publisher, Run
from tests.source_tree import ROOT
from tests.support import FrontDoor, RedisServer


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


SECURITY = (ROOT / "docs/security.md").read_text()


def commands_of(name: str) -> list[str]:
    """What docs/security.md says that a command needs."""
    row = re.search(rf"^\| `{re.escape(name)}`[^|]*\|([^|]*)\|", SECURITY, re.MULTILINE)
    assert row is not None
    return re.findall(r"\+[a-z|]+", row[1])


def test_publishing(trainer: str, store: Store, front_door: FrontDoor) -> None:
    page = (ROOT / "docs/training.md").read_text()
    row = re.search(r"^\| publishes \| `([^`]*)`", page, re.MULTILINE)
    assert row is not None
    keys = row[1].replace("KEY", "m").split()
    url = f"redis://trainer:p@127.0.0.1:{front_door.port}"
    publisher = Publisher(url, torch.nn.Linear(4, 2), "m", [torch.zeros(3, 4)], run="r")
    with pytest.raises(redis.exceptions.NoPermissionError):
        publisher.publish(1)
    more = [*keys, *commands_of("AI.MODELSTORE"), *commands_of("AI.DAGEXECUTE_RO")]
    store.redis.execute_command("ACL", "SETUSER", "trainer", *more)
    assert publisher.publish(2).key == "m"
    other = Publisher(url, torch.nn.Linear(4, 2), "another", [torch.zeros(3, 4)], run="r")
    with pytest.raises(redis.exceptions.NoPermissionError):
        other.publish(1)
    assert store.redis.exists("m")
    assert not store.redis.exists("another")


def test_looking(trainer: str, store: Store, redis_server: RedisServer) -> None:
    Run(trainer, "r").begin(steps=3)
    Run(trainer, "r").report(1, loss=0.5)
    with Checkpointer(trainer, "r") as checkpoints:
        checkpoints.save(1, {"x": torch.ones(3)}).result(30)
    row = re.search(r"^\| looks[^|]*\|([^|]*)\|", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    assert row is not None
    rules = " ".join(re.findall(r"`([^`]*)`", row[1])).split()
    store.redis.execute_command("ACL", "SETUSER", "looker", "reset", "on", ">p", *rules)
    url = redis_server.url.replace("redis://", "redis://looker:p@")
    runner = CliRunner()
    listed = runner.invoke(app, ["train", "ls", "--url", url])
    shown = runner.invoke(app, ["train", "show", "r", "--url", url])
    store.redis.acl_deluser("looker")
    assert (listed.exit_code, shown.exit_code) == (0, 0), listed.output + shown.output
    assert "r" in listed.output
    assert "step 1 of 3" in shown.output
