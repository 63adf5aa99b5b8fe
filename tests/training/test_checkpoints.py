"""Checkpoints in a real Redis: what was saved comes back bit for bit, costs what changed, and fails alone."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
import redis
import torch
from torch import nn

from redisai_py.artifacts import Corrupt, Invalid, Missing, Store, collect
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import put
from redisai_py.training import Checkpointer, Run
from redisai_py.training.retention import Superseded
from tests.support import RedisServer


def trained(steps: int = 3, seed: int = 0, width: int = 32) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer after some steps, which depend on the seed alone."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, types included."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return same and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and repr(one) == repr(other)


def steps_of(store: Store, run: str = "r") -> list[int]:
    return [version.version for version in store.registry("run").versions(run)]


def test_a_training_goes_on_as_if_nothing_had_happened(store: Store) -> None:
    model, optimizer = trained()
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(3, model, optimizer, metrics={"loss": 0.5}).result(30)
        for _ in range(4):
            step(model, optimizer)
    other, its_optimizer = trained(steps=1, seed=7)
    with Checkpointer(store.redis, "r") as checkpoints:
        found = checkpoints.load(other, its_optimizer)
    assert found is not None
    assert (found.step, found.metrics, found.state) == (3, {"loss": 0.5}, {})
    for _ in range(4):  # dropout and data come from the generator, whose state came back, too
        step(other, its_optimizer)
    assert equal(dict(model.state_dict()), dict(other.state_dict()))
    assert equal(optimizer.state_dict(), its_optimizer.state_dict())


def test_what_a_state_may_hold_comes_back(store: Store) -> None:
    tied = torch.randn(3, 4)
    state: dict[str, Any] = {
        "numbers": [1, -(2**70), 0.1, float("inf"), True, None, ""],
        "pair": (0.9, 0.999),
        7: {"int keys": {0: 1, 1: 2}, "$odd": "$tensor"},
        "bytes": b"\0\xff",
        "tensors": [
            torch.arange(6).reshape(2, 3).t(), torch.tensor(1.5), torch.empty(0, 4), torch.tensor([True, False]),
            torch.randn(5, dtype=torch.bfloat16), torch.randn(5, dtype=torch.float64),
            torch.zeros(3, dtype=torch.uint8), torch.randn(2).to(torch.complex64),
            torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
            tied, tied[:2],
        ],
        "numpy": ("MT19937", np.random.RandomState(0).get_state()[1], np.float64(0.25)),
        "large": torch.randn(3 * 1024 * 1024 + 1),
    }  # fmt: skip
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(0, extra=state, also={"tied": [tied, tied]})
        found = checkpoints.load()
    assert found is not None
    state["numpy"] = (*state["numpy"][:2], 0.25)
    assert equal(state, found.state["extra"])
    assert found.state["also"]["tied"][0] is found.state["also"]["tied"][1]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "extra.deep.1 is a object, which only pickle could keep"),
        (torch.eye(3).to_sparse(), "extra.deep.1 is a tensor that is sparse"),
        (torch.zeros(2, dtype=torch.complex128), "extra.deep.1 has elements of torch.complex128"),
        (np.array([object()]), "extra.deep.1 is an array of object"),
    ],
)
def test_nothing_is_pickled(store: Store, value: Any, why: str) -> None:
    with Checkpointer(store.redis, "r") as checkpoints, pytest.raises(Invalid, match=why):
        checkpoints.save(1, extra={"deep": [1, value]})
    assert not store.redis.exists("ai:run:r")


def test_what_has_not_changed_is_not_sent_again(store: Store) -> None:
    frozen, moving = torch.randn(4 * 1024 * 1024), torch.randn(1024 * 1024)
    with Checkpointer(store.redis, "r", keep=None) as checkpoints:
        received = []
        for number in range(3):
            checkpoints.save(number, extra={"frozen": frozen, "moving": moving}).result(30)
            received.append(store.redis.info("stats")["total_net_input_bytes"])
            moving += number  # 0 the first time: nothing changes
    assert received[1] - received[0] < 100_000
    assert 4_000_000 < received[2] - received[1] < 4_500_000
    assert steps_of(store) == [0, 1, 2]


def test_old_checkpoints_go_and_their_blobs_with_them(store: Store) -> None:
    model, optimizer = trained(width=4096)
    with Checkpointer(store.redis, "r", keep=2, best="loss") as checkpoints:
        for number, loss in enumerate([5.0, 1.0, 4.0, 3.0, float("nan"), 2.0]):
            step(model, optimizer)
            checkpoints.save(number, model, optimizer, metrics={"loss": loss}).result(30)
        best = checkpoints.load(at="best")
    assert best is not None
    assert (best.step, best.metrics) == (1, {"loss": 1.0})
    assert steps_of(store) == [1, 4, 5]
    assert collect(store, dry_run=True).removed == 0  # nothing is left over
    assert store.redis.hgetall("ai:summary:run:r").items() >= {b"checkpoint": b"5", b"checkpoint.best": b"1"}.items()


def test_runs_share_no_blob_that_one_of_them_deletes(store: Store) -> None:
    model, optimizer = trained()
    with Checkpointer(store.redis, "one", keep=1) as one, Checkpointer(store.redis, "two", keep=1) as two:
        one.save(1, model, optimizer).result(30)
        two.save(1, model, optimizer).result(30)
        step(model, optimizer)
        one.save(2, model, optimizer).result(30)
        assert two.load(*trained(seed=5)) is not None


def test_going_back_forgets_what_came_after(store: Store) -> None:
    model, optimizer = trained()
    with Checkpointer(store.redis, "r", keep=3) as checkpoints:
        for number in (10, 20, 30):
            checkpoints.save(number, model, optimizer)
        found = checkpoints.load(model, optimizer, at=10)
        assert found is not None
        step(model, optimizer)
        checkpoints.save(20, model, optimizer).result(30)
    assert steps_of(store) == [10, 20]
    assert store.registry("run").resolve("r@latest").version == 20


def test_the_position_in_the_data_is_part_of_a_checkpoint(store: Store, redis_server: RedisServer) -> None:
    put(store, "d", {"x": np.arange(100, dtype=np.float32)})

    def data(seed: int = 0) -> RedisDataset:
        return RedisDataset(redis_server.url, "d", batch_size=10, seed=seed)

    whole = [batch["x"].tolist() for batch in data()]
    first = data()
    taken = iter(first.loader())
    read = [next(taken)["x"].tolist() for _ in range(4)]
    with Checkpointer(redis_server.url, "r") as checkpoints:
        checkpoints.save(4, loader=first)
        second = data()
        checkpoints.load(loader=second)
        assert read + [batch["x"].tolist() for batch in second.loader(num_workers=0)] == whole
        with pytest.raises(Invalid, match="saved with seed 0"):
            checkpoints.load(loader=data(seed=1))


def test_no_checkpoint_and_a_wrong_one(store: Store) -> None:
    with Checkpointer(store.redis, "r") as checkpoints:
        assert checkpoints.load(*trained()) is None
        checkpoints.save(1, trained()[0]).result(30)
        with pytest.raises(Invalid, match="holds no optimizer; it holds model, rng"):
            checkpoints.load(*trained())
        with pytest.raises(Invalid, match=r"model does not fit the checkpoint r:1.*size mismatch"):
            checkpoints.load(trained(width=16)[0])
        with pytest.raises(Missing, match="no run r:5; versions: 1"):
            checkpoints.load(trained()[0], at=5)
        with pytest.raises(Missing, match="no run r@best"):
            checkpoints.load(trained()[0], at="best")


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_damaged_checkpoint_is_named_and_not_skipped(store: Store, damage: str) -> None:
    model, optimizer = trained(width=4096)
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(1, model, optimizer).result(30)
        _, manifest = store.open("run", "r@latest")
        layer = manifest.layers[-1]
        key = store.keys.blob(layer.digest)
        store.redis.delete(key) if damage == "lost" else store.redis.setrange(key, 200, b"?")
        with pytest.raises((Missing, Corrupt), match=rf"r:1: layer {layer.title}.*{layer.digest}"):
            checkpoints.load(model, optimizer)
        checkpoints.save(2, model, optimizer).result(30)  # written whole again, if it was lost
        if damage == "lost":
            assert checkpoints.load(model, optimizer) is not None


def test_a_full_redis_costs_one_checkpoint(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = trained()
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(1, model, optimizer).result(30)
        before = store.redis.dbsize()
        used = store.redis.info("memory")["used_memory"]
        store.redis.config_set("maxmemory", used + 12_000_000)
        try:
            large = {"ballast": [torch.randn(1024 * 1024) for _ in range(8)]}
            with caplog.at_level(logging.WARNING, "redisai_py.training"):
                future = checkpoints.save(2, model, optimizer, large=large)
                with pytest.raises(redis.OutOfMemoryError):
                    future.result(30)
            assert store.redis.dbsize() == before  # what had been sent does not fill it further
        finally:
            store.redis.config_set("maxmemory", 0)
        (told,) = caplog.messages
        assert "run r: the checkpoint of step 2" in told
        assert "Redis is full (" in told
        assert "33,56" in told.partition("bytes more are needed")[0].rpartition("and ")[2]
        assert "Training goes on; the checkpoint of step 1 stays" in told
        step(model, optimizer)
        found = checkpoints.load(model, optimizer)
        assert found is not None
        assert found.step == 1
        checkpoints.save(2, model, optimizer, large=large).result(30)
    assert steps_of(store) == [1, 2]


def test_who_was_taken_for_dead_stops(store: Store) -> None:
    model, optimizer = trained()
    zombie, heir = Checkpointer(store.redis, "r"), Checkpointer(store.redis, "r")
    with heir:
        zombie.save(1, model, optimizer).result(30)
        heir.save(2, model, optimizer).result(30)
        zombie.save(3, model, optimizer)
        with pytest.raises(Superseded, match="another process goes on with run r"):
            zombie.save(4, model, optimizer)
        zombie.close()
    assert steps_of(store) == [1, 2]


def test_at_most_one_is_in_flight(store: Store) -> None:
    with Checkpointer(store.redis, "r", keep=None) as checkpoints:
        futures = []
        for number in range(5):
            assert all(future.done() for future in futures[:-1])
            futures.append(checkpoints.save(number, extra={"x": torch.full((100_000,), float(number))}))
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint r")]
        assert len(names) == 1
    assert steps_of(store) == [0, 1, 2, 3, 4]


def test_the_copy_is_taken_at_once(store: Store) -> None:
    values = torch.zeros(1_000_000)
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(0, extra={"x": values})
        values += 1
        found = checkpoints.load()
    assert found is not None
    assert not found.state["extra"]["x"].any()


@pytest.mark.parametrize(
    "blob",
    [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64],
)
def test_a_forged_checkpoint_is_refused(store: Store, blob: bytes) -> None:
    """Whoever may write blobs and names may write anything there; nothing of it is run, and it is named."""
    model, _ = trained()
    with Checkpointer(store.redis, "r") as checkpoints:
        checkpoints.save(1, model).result(30)
        _, manifest = store.open("run", "r")
        with store.lease() as lease:
            state = manifest.layers[0]
            forged = store.put_layer(blob, "application/octet-stream", "tensors-00000.safetensors", lease)
            again = store.manifest(store.config(manifest), [state, forged], lease)
            store.commit("run", "r", again, lease, version=2, aliases=["latest"])
        with pytest.raises(Invalid, match="r:2"):
            checkpoints.load(model)


def test_the_record_of_a_run(store: Store, redis_server: RedisServer) -> None:
    run = Run(redis_server.url, "r")
    run.begin(steps=10, lr=0.1, model="mlp")
    for number in range(4):
        run.report(number, loss=torch.tensor(1.0 / (1 + number)), accuracy=number / 4)
    run.report(2, loss=0.9)  # repeated after a restart
    run.end()
    plain = store.redis.hgetall("ai:summary:run:r")
    expected = {b"state": b"finished", b"step": b"2", b"steps": b"10", b"param.lr": b"0.1", b"metric.loss": b"0.9"}
    assert plain.items() >= expected.items()
    assert run.series("loss") == [(0, 1.0), (1, 0.5), (2, 0.9), (3, 0.25)]
    assert run.summary()["param.model"] == "mlp"
    with pytest.raises(Missing, match="no run other"):
        Run(redis_server.url, "other").summary()
