"""Ray as the engine: two nodes on this machine, one of which is lost in the middle."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.training.ray_train import loop
from examples.training.train import put_digits
from redisai_py.artifacts import Store
from redisai_py.training import Checkpointer, Run
from tests.support import RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra `ray`"),
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 150


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    import ray
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


def test_a_lost_node_costs_the_steps_since_the_checkpoint(
    cluster: Any, store: Store, redis_server: RedisServer, tmp_path: Path
) -> None:
    import ray

    from redisai_py.training.ray import ray_trainer

    put_digits(redis_server.url)
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    arguments = ["--steps", str(STEPS), "--every", "10", "--pause", "0.05", "--timeout", "20"]
    trainer = ray_trainer(
        loop, redis_server.url, "r", workers=2, config={"arguments": arguments}, storage=str(tmp_path), timeout_s=20
    )
    run = Run(redis_server.url, "r")
    reached: list[int] = []

    def remove() -> None:
        while len(reached) < 1:
            time.sleep(0.1)
            if (step := int(store.redis.hget("ai:summary:run:r", "step") or 0)) >= 30:
                reached.append(step)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    trainer.fit()
    thread.join(30)
    assert reached
    assert 30 <= reached[0] < STEPS
    assert (run.summary()["step"], run.summary()["state"]) == (str(STEPS), "finished")
    steps = [step for step, _ in run.series("loss")]
    assert steps == list(range(1, STEPS + 1))
    assert int(store.redis.hget("ai:summary:run:r", "attempt") or 0) >= 2, "the training was started again"
    with Checkpointer(redis_server.url, "r") as checkpoints:
        found = checkpoints.load()
    assert found is not None
    assert found.step == STEPS


def test_the_example_and_a_training_that_fails(
    cluster: Any, store: Store, redis_server: RedisServer, tmp_path: Path
) -> None:
    import ray

    from examples.training import ray_train
    from redisai_py.training.ray import ray_trainer

    put_digits(redis_server.url)
    ray.init(address=cluster.address, log_to_driver=False)
    ray_train.main(["--url", redis_server.url, "--run", "digits-1", "--workers", "2", "--steps", "12", "--every", "5"])
    summary = Run(redis_server.url, "digits-1").summary()
    assert (summary["state"], summary["step"], summary["world"]) == ("finished", "12", "2")

    def failing(config: dict[str, Any]) -> None:
        Run.current().begin(steps=1)
        raise ValueError("this loop is wrong")

    trainer = ray_trainer(failing, redis_server.url, "r", workers=1, max_failures=0, storage=str(tmp_path))
    with pytest.raises(Exception, match="this loop is wrong"):
        trainer.fit()
    summary = Run(redis_server.url, "r").summary()
    assert summary["state"] == "failed"
    assert "Error" in summary["error"]
