"""The engine's objects as the rest of the server sees them: a loaded model, and one run of it.

A `LoadedModel` has everything needed to run a model. Only the engine changes it; the engine's own data are in its own
class (`queued`). A `Run` is requested on the event loop, executed there or on a worker thread, and resolved on the
event loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redisai_py.backend import DeviceArray, Session, TensorSpec, may_keep_state, output_specs, what_draws
from redisai_py.engine.merging import Value, signature
from redisai_py.engine.stats import ModelStats
from redisai_py.model import Model
from redisai_py.pending import Pending
from redisai_py.tensor import Tensor

__all__ = ["LoadedModel", "Run", "Value"]


class LoadedModel:
    """A model that can be run. Thread: the event loop's.

    model: the description, without the blob; its input and output names are the session's.
    arity: numbers of inputs and outputs.   nbytes: memory that it holds.
    stateful: a run may affect later runs.   draws: what its outputs depend on besides its inputs, or empty.
    version: of its framework.   unfinished: number of unfinished runs.
    stats: its counters, and how long and when it ran.
    """

    __slots__ = (
        "__weakref__",
        "arity",
        "draws",
        "input_specs",
        "inputs",
        "model",
        "nbytes",
        "output_specs",
        "outputs",
        "stateful",
        "stats",
        "unfinished",
        "version",
    )

    def __init__(self, model: Model, session: Session, stats: ModelStats, version: str) -> None:
        self.input_specs: tuple[TensorSpec, ...] = tuple(session.inputs)
        self.output_specs: tuple[TensorSpec, ...] = tuple(output_specs(session))
        self.inputs = tuple(spec.name for spec in session.inputs)
        self.outputs = tuple(session.outputs)
        self.arity = (len(self.inputs), len(self.outputs))
        self.model = replace(model, inputs=self.inputs, outputs=self.outputs, blob=b"")
        self.stateful = may_keep_state(session)
        self.draws = what_draws(session)
        self.nbytes = max(0, int(session.nbytes))  # it is summed up: a plugin's None would break the sums
        self.version = version
        self.unfinished = 0
        self.stats = stats

    @property
    def id(self) -> str:
        """The model's identity, the key of loaded models."""
        return self.model.identity

    @property
    def not_merged(self) -> str:
        """Why its runs are not merged; empty if they may be."""
        raise NotImplementedError

    @property
    def merged_kinds(self) -> int:
        """Number of kinds of input for which merged runs were found equal to single ones."""
        raise NotImplementedError

    def proved_rows(self, inputs: Sequence[Tensor]) -> int:
        """Number of rows of the inputs, if merged runs of such inputs were found equal to single ones; else 0."""
        raise NotImplementedError

    @property
    def process(self) -> int:
        """The id of its engine process; 0 if it is in the server's own, or in none at this moment."""
        raise NotImplementedError

    @property
    def here(self) -> bool:
        """Whether it is in the server's own process, in a copy of its own if `process` has one too, or in none now."""
        raise NotImplementedError

    def cancel_queued(self, run: Run) -> bool:
        """See `Run.cancel_queued`."""
        raise NotImplementedError

    def count_call(self, rows: int) -> None:
        """Count a call that was answered without an execution. rows: see `samples`."""
        raise NotImplementedError


class Run(Pending[list[Value]]):
    """Awaitable: one value per output, in order; None for an output that is not a tensor.

    Raises when awaited: BackendError; ShapeMismatch; Overloaded; QueueTimeout; RunTimeout: MODEL_EXECUTION_TIMEOUT
    passed.
    """

    __slots__ = (
        "counted",
        "deadline",
        "dropped",
        "inputs",
        "keep_on_device",
        "key",
        "loaded",
        "ran_s",
        "rows",
        "since",
        "started",
    )

    def __init__(self, loaded: LoadedModel, inputs: Sequence[Tensor | DeviceArray]) -> None:
        self.prepare(loaded, inputs)

    def prepare(self, loaded: LoadedModel, inputs: Sequence[Tensor | DeviceArray]) -> None:
        """The constructor of a command that is its own run, once it is known that it must be queued."""
        # Sets the fields of Pending directly instead of by a call: this is on the hot path.
        self.done = False
        self.value = None
        self.error = None
        self.waiter = None
        self._asyncio_future_blocking = False
        self.loaded: LoadedModel | None = loaded
        """None once the run has ended: a kept result must not keep the model."""
        self.inputs = inputs
        self.rows, self.key = signature(inputs)
        self.since = time.monotonic()
        self.deadline = math.inf
        self.keep_on_device = False
        self.counted = True
        self.started = False
        """A worker has taken it; guarded by the device's lock."""
        self.dropped = False
        """It must not be started any more; guarded by the device's lock."""
        self.ran_s: float | None = None
        """Seconds of the execution it was part of; None if there was none."""

    def cancel_queued(self) -> bool:
        """Remove the run from its queue, since nobody wants the result; False if it has started or ended.

        The run then ends with asyncio's CancelledError. A run that has started continues, and is counted.
        """
        return self.loaded is not None and self.loaded.cancel_queued(self)

    def cancel(self, msg: Any = None) -> bool:
        """Called when the awaiting Task is cancelled: the run leaves its queue too."""
        return self.cancel_queued() or super().cancel(msg)
