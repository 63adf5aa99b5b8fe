"""What the rest of the server sees of the engine's objects: a loaded model, and one run of it.

A `LoadedModel` says what must be known to run a model; nobody but the engine changes it, and what the engine needs
besides is in its own class (`queued`). A `Run` is asked for on the event loop, executed there or on a worker thread,
and resolved on the event loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redisai_py.backend import DeviceArray, Session, TensorSpec, may_keep_state, output_specs, what_draws
from redisai_py.engine.merging import Value, signature
from redisai_py.model import Model
from redisai_py.pending import Pending
from redisai_py.tensor import Tensor

__all__ = ["LoadedModel", "Run", "Value"]


class LoadedModel:
    """A model that can be run. Thread: the event loop's.

    model: the description, without the blob; its input and output names are the session's.
    arity: how many inputs and outputs.   nbytes: memory that it holds.
    stateful: a run may change what later runs give.   draws: what its outputs depend on besides its inputs, or empty.
    version: of its framework.   unfinished: runs that have not ended.
    short_run_s: seconds that the framework lately took for a batch, at the least: a thread may have had to wait for its
                 turn. 0 before the first.
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
        "short_run_s",
        "stateful",
        "unfinished",
        "version",
    )

    def __init__(self, model: Model, session: Session, version: str) -> None:
        self.input_specs: tuple[TensorSpec, ...] = tuple(session.inputs)
        self.output_specs: tuple[TensorSpec, ...] = tuple(output_specs(session))
        self.inputs = tuple(spec.name for spec in session.inputs)
        self.outputs = tuple(session.outputs)
        self.arity = (len(self.inputs), len(self.outputs))
        self.model = replace(model, inputs=self.inputs, outputs=self.outputs, blob=b"")
        self.stateful = may_keep_state(session)
        self.draws = what_draws(session)
        self.nbytes = max(0, int(session.nbytes))  # sums are made of it: a plugin's None would break them
        self.version = version
        self.unfinished = 0
        self.short_run_s = 0.0

    @property
    def id(self) -> str:
        """The model's identity, by which it is found."""
        return self.model.identity

    @property
    def not_merged(self) -> str:
        """Why its runs are not merged, empty while they may be."""
        raise NotImplementedError

    @property
    def merged_kinds(self) -> int:
        """Kinds of input for which merged runs were found to equal single ones."""
        raise NotImplementedError

    def proved_rows(self, inputs: Sequence[Tensor]) -> int:
        """How many rows the inputs have, if merged runs of such inputs were found to equal single ones; else 0."""
        raise NotImplementedError

    @property
    def process(self) -> int:
        """The id of the engine process that it is in; 0 for the server's own, or for none at this moment."""
        raise NotImplementedError

    def cancel_queued(self, run: Run) -> bool:
        """See `Run.cancel_queued`."""
        raise NotImplementedError

    def count_call(self, rows: int) -> None:
        """Count a call that was answered without an execution. rows: see `samples`."""
        raise NotImplementedError


class Run(Pending[list[Value]]):
    """Awaitable: gives one value per output, in order; None for an output that is not a tensor.

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
        # The fields of Pending are set here and not by a call: this constructor is on the hot path.
        self.done = False
        self.value = None
        self.error = None
        self.waiter = None
        self._asyncio_future_blocking = False
        self.loaded: LoadedModel | None = loaded
        """None once the run has ended: whoever keeps the result must not keep the model."""
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
        """Take the run out of its queue, since nobody wants the result; False if it has started or ended.

        The run then ends with asyncio's CancelledError. A run that has started goes on, and is counted.
        """
        return self.loaded is not None and self.loaded.cancel_queued(self)

    def cancel(self, msg: Any = None) -> bool:
        """Called when the awaiting Task is cancelled: the run leaves its queue too."""
        return self.cancel_queued() or super().cancel(msg)
