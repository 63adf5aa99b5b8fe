"""Publishing a model while it is trained and while it is served."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
import redis
import torch
from torch import nn

from redisai_py import Client
from redisai_py.artifacts import NotParity, Store, Tolerance
from redisai_py.training import Publisher, publish
from tests.support import FrontDoor, patient
from tests.training.test_checkpoints import step, trained


@pytest.fixture
def url(front_door: FrontDoor, bare: redis.Redis) -> str:
    return f"redis://127.0.0.1:{front_door.port}"


@pytest.fixture
def serving(url: str) -> Any:
    with Client.from_url(url, socket_timeout=25, retry=None) as client:
        yield client


def answer(client: Client, key: str, rows: np.ndarray[Any, Any]) -> Any:
    dag = client.dag(readonly=True, routing=key)
    dag.tensorset("in", rows)
    dag.modelexecute(key, ["in"], ["out"])
    dag.tensorget("out")
    return dag.execute()[-1]


def test_what_is_served_is_what_was_trained(url: str, serving: Client, store: Store) -> None:
    model, optimizer = trained()
    publisher = Publisher(url, model, "m", [torch.randn(5, 8)], every=2, run="r")
    rows = np.random.default_rng(0).random((7, 8)).astype(np.float32)
    digests = []
    for number in range(1, 5):
        step(model, optimizer)
        done = publisher.step(number)
        assert (done is None) == bool(number % 2)
        if done is None:
            continue
        assert model.training
        digests.append(done.digest)
        expected = model.eval()(torch.from_numpy(rows)).detach().numpy()
        model.train()
        np.testing.assert_allclose(answer(serving, "m", rows), expected, rtol=1e-4, atol=1e-5)
    assert len(set(digests)) == 2
    log = store.registry("run").log("r")
    assert [entry.event for entry in log] == ["publish", "publish"]
    assert log[0].fields["key"] == "m"
    assert (log[0].fields["step"], log[0].fields["sha256"]) == ("4", digests[1])
    assert serving.modelget("m", meta_only=True)["tag"] == f"r step 4 {digests[1]}"


def test_fifty_publishes_under_load_fail_no_request(url: str, front_door: FrontDoor, serving: Client) -> None:
    model, optimizer = trained()
    publisher = Publisher(url, model, "m", [torch.randn(2, 8)])
    publisher.publish()
    stop = threading.Event()
    done: list[int] = []
    failures: list[BaseException] = []

    def load() -> None:
        count = 0
        rows = np.ones((1, 8), np.float32)
        try:
            with Client(port=front_door.port, socket_timeout=25, retry=None) as client:
                while not stop.is_set():
                    reply = answer(client, "m", rows)
                    assert reply.shape == (1, 2)
                    count += 1
        except BaseException as error:
            failures.append(error)
        done.append(count)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    seen = set()
    for number in range(50):
        step(model, optimizer)
        seen.add(publisher.publish(number).digest)
    stop.set()
    for client in clients:
        client.join(30)
    assert failures == []
    assert len(seen) == 50
    assert sum(done) > 200


def test_what_differs_is_not_published(
    url: str, serving: Client, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = trained()
    publisher = Publisher(url, model, "m", [torch.randn(5, 8)], run="r")
    before = publisher.publish(1)
    step(model, optimizer)
    strict = Publisher(url, model, "m", [torch.randn(5, 8)], tolerance=Tolerance(-1.0, 0.0), run="r")

    class Random(nn.Module):
        """Not the same function twice."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(NotParity):
        publish(url, Random(), "m", [torch.randn(5, 8)])
    with caplog.at_level(logging.WARNING, "redisai_py.training"):
        assert Publisher(url, Random(), "m", [torch.randn(5, 8)]).step(2) is None
    assert "the model of step 2 was not published as m" in caplog.text
    assert serving.modelget("m", meta_only=True)["tag"].endswith(before.digest)
    assert not list(store.redis.scan_iter("ai:check:*"))
    assert strict is not None


def test_a_server_that_is_away_does_not_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = trained()
    publisher = Publisher(redis.Redis(port=1, retry=None), model, "m", [torch.randn(5, 8)])
    assert publisher.step(1) is None
    assert "was not published as m" in caplog.text


def test_a_plain_redis_is_named_as_such(bare: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = trained()
    publisher = Publisher(bare, model, "m", [torch.randn(5, 8)])
    assert publisher.step(1) is None
    assert "unknown command" in caplog.text.lower()


def test_several_inputs_and_outputs(url: str, serving: Client, front_door: FrontDoor) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.films = nn.Embedding(20, 4)

        def forward(self, user: torch.Tensor, film: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            vectors = self.films(film).mean(1)
            return vectors, (user * vectors).sum(1)

    model = Two()
    example = [torch.randn(3, 4), torch.arange(6).reshape(3, 2)]
    publish(url, model, "two", example, inputs=["user", "films"], outputs=["vector", "score"], batch=8)
    meta = serving.modelget("two", meta_only=True)
    assert (meta["inputs"], meta["outputs"], meta["batchsize"]) == (["user", "films"], ["vector", "score"], 8)
    with patient(front_door.port) as client:
        assert client.type("two") == b"hash"
