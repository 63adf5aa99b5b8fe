"""Training with Ray instead of torchrun: Ray places and restarts the workers; data and checkpoints stay in Redis.

    ray_trainer(loop, "redis://10.0.0.5:6379", "clicks-1", workers=4).fit()

`loop(config)` is an ordinary training loop, the same as under torchrun: `Run.current()` and torch.distributed are set
up when it starts. A lost worker or node costs the steps since the latest checkpoint. Needs the extra `ray`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from redisai_py.artifacts.errors import needing
from redisai_py.artifacts.names import check_name
from redisai_py.training.runs import PREFIX_VARIABLE, RUN_VARIABLE, URL_VARIABLE, Run

__all__ = ["ray_trainer"]

Loop = Callable[[dict[str, Any]], None]


def ray_trainer(
    loop: Loop,
    url: str,
    run: str,
    *,
    workers: int = 2,
    config: Mapping[str, Any] | None = None,
    max_failures: int = 3,
    resources: Mapping[str, float] | None = None,
    gpu: bool = False,
    timeout_s: int = 60,
    storage: str | None = None,
    prefix: str = "ai:",
) -> Any:
    """A `ray.train.torch.TorchTrainer`; its `fit()` trains in the cluster of `ray.init`.

    Args:   url: of Redis, as seen from the workers' machines.   config: passed to `loop`.   resources: per worker.
            max_failures: restarts of all workers when one is lost.   timeout_s: longest wait for other workers.
            storage: directory for Ray's own records; by default Ray's own. It holds no checkpoints.
    Raises: Invalid: Ray is not installed, or a bad name of a run.
    """
    with needing("training with Ray needs ray[train]", "ray"):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    check_name(run)
    environment = {URL_VARIABLE: url, RUN_VARIABLE: run, PREFIX_VARIABLE: prefix}

    class RecordedTrainer(TorchTrainer):
        """Records in the run's summary how it ended, like `redisai train run`."""

        def fit(self) -> Any:
            record = Run(url, run, prefix)
            try:
                result = super().fit()
            except Exception as error:
                record.end("failed", error=_first_line(error))
                raise
            except BaseException as error:
                record.end("stopped", error=type(error).__name__)
                raise
            record.end("finished")
            return result

    return RecordedTrainer(
        _with_environment(loop, environment),
        train_loop_config=dict(config or {}),
        torch_config=TorchConfig(backend=None if gpu else "gloo", timeout_s=timeout_s),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker=dict(resources) if resources else None,
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(name=run, storage_path=storage, failure_config=FailureConfig(max_failures=max_failures)),
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _with_environment(loop: Loop, environment: Mapping[str, str]) -> Loop:
    def started(config: dict[str, Any]) -> None:
        os.environ.update(environment)
        loop(config)

    return started
