"""One run of a model: asked for on the event loop, executed there or on a worker thread, resolved on the event loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redisai_py.backend import DeviceArray
from redisai_py.engine.merging import Value, signature
from redisai_py.pending import Pending
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.engine.registry import LoadedModel

__all__ = ["Run"]


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
        return self.loaded is not None and self.loaded.engine.cancel_queued(self)

    def cancel(self, msg: Any = None) -> bool:
        """Called when the awaiting Task is cancelled: the run leaves its queue too."""
        return self.cancel_queued() or super().cancel(msg)
