"""Whether and how a model runs: the only place where that is decided.

Every run that a client requests passes through here, whatever the form of its command: AI.MODELEXECUTE and AI.MODELRUN
on cached values or from Redis, operations of a DAG, scripts that run a model. (Inside MULTI no command runs a model.)

`Predictions` runs models with a cache rule: it may know the outputs without a run, and comes back here for the runs
that it needs.

Thread: the event loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisai_py.backend import DeviceArray
from redisai_py.engine.engine import Engine
from redisai_py.engine.run import LoadedModel, Run, Value
from redisai_py.tensor import Tensor

__all__ = ["Runs"]


class Runs:
    """Decides on every run of a model on this server."""

    __slots__ = ("_engine", "later", "now")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.now: Callable[[LoadedModel, Sequence[Tensor]], tuple[list[Value], float | None] | None]
        self.now = engine.run_at_once
        """The outputs without waiting, and the seconds that the framework took; None if the run must be queued."""
        self.later: Callable[[Run, LoadedModel, int | None], None] = engine.queue
        """Queue a run whose `resolve` or `fail` continues its command, with the longest time in the queue in ms."""

    def start(
        self,
        loaded: LoadedModel,
        inputs: Sequence[Tensor | DeviceArray],
        timeout_ms: int | None = None,
        *,
        keep_on_device: bool = False,
        counted: bool = True,
        alone: bool = False,
    ) -> Run:
        """Queue a run. Returns: the run, to be awaited or given a callback. Arguments: see `Engine.run_model`.

        The run may have ended already.
        """
        return self._engine.run_model(
            loaded, inputs, timeout_ms, keep_on_device=keep_on_device, counted=counted, alone=alone
        )
