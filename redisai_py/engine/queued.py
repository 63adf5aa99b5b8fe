"""A loaded model inside the engine: session, run queue, policies, counters, and the state of its runs.

DESIGN. Three kinds of holders refer to a model: the registry, its unfinished runs, and code between looking it up and
running it. Its session is closed, on a worker thread of its device, when the last holder lets go. So a replaced or
evicted model always finishes the runs begun with it. Reference counting does this exactly: a model is in no reference
cycle, and the finalizer refers to the session but not to the model.

Only this module changes a model; others call its methods. (`in_ring` belongs to its device.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from redisai_py.backend import Session, runs_concurrently
from redisai_py.engine.batching import BatchQueue
from redisai_py.engine.inline import InlinePolicy
from redisai_py.engine.isolation.seen import is_here, process_of
from redisai_py.engine.merging import signature
from redisai_py.engine.proof import MergeProof
from redisai_py.engine.run import LoadedModel, Run
from redisai_py.engine.stats import ModelStats
from redisai_py.model import Model
from redisai_py.tensor import Tensor

__all__ = ["Device", "QueuedModel"]


class Device(Protocol):
    """The threads that execute a model's runs: `worker.DeviceQueue`."""

    name: str
    """Upper-cased device string."""
    threads_per_model: int
    """Number of threads on which one model may run at once."""

    def submit(self, loaded: QueuedModel, runs: list[Run]) -> None:
        """Hand over runs, in order. Thread: the event loop's."""

    def drop(self, loaded: QueuedModel, run: Run) -> bool:
        """Remove a run; False if it has started or its deadline has passed."""

    def abandon_model(self, loaded: QueuedModel) -> list[Run]:
        """Remove all waiting runs."""

    def stop_merging(self, loaded: QueuedModel) -> bool:
        """Execute its runs one by one from now on; False if that was so before. Thread: any."""

    def close_session(self, session: Session) -> None:
        """Close a session on one of the threads. Thread: any."""


class QueuedModel(LoadedModel):
    """See `LoadedModel`.

    cancel: removes a run from wherever it waits; False if it has started or ended.
    """

    __slots__ = (
        "_cancel",
        "concurrency",
        "device",
        "in_ring",
        "inline",
        "offered",
        "on_threads",
        "proof",
        "proving",
        "queue",
        "release",
        "running",
        "session",
        "stuck",
    )

    def __init__(
        self,
        model: Model,
        session: Session,
        device: Device,
        queue: BatchQueue[Run],
        inline: InlinePolicy,
        proof: MergeProof,
        stats: ModelStats,
        cancel: Callable[[QueuedModel, Run], bool],
        version: str = "",
    ) -> None:
        self.release = weakref.finalize(self, device.close_session, session)
        """Closes the session, once, when nothing refers to the model any more, or when called."""
        self.release.atexit = False  # at exit the process's memory is freed anyway, and the threads are gone
        super().__init__(model, session, stats, version)
        self._cancel = cancel
        self.session = session
        self.device = device
        self.concurrency = device.threads_per_model if runs_concurrently(session) else 1
        """Number of threads that may be in the session at once."""
        self.inline = inline
        self.proof = proof
        # Used on the event loop's thread:
        self.offered: list[Run] = []
        """Runs requested in this iteration of the loop."""
        self.stuck = False
        """A run of it does not end, so its session is never free again."""
        self.on_threads = 0
        """Unfinished runs on the device's threads. While it is 0, `queue` and session belong to the event loop."""
        # Used on the device's threads, guarded by its lock, while `on_threads` is not 0:
        self.queue = queue
        self.running = 0
        """Number of threads in the session."""
        self.proving = False
        """One of them compares merged runs with single ones. Others wait, instead of making the same comparison."""
        self.in_ring = False

    # -- for the rest of the server ------------------------------------------------------------------------------------

    @property
    def not_merged(self) -> str:
        return self.proof.reason

    @property
    def merged_kinds(self) -> int:
        return len(self.proof.proved)

    def proved_rows(self, inputs: Sequence[Tensor]) -> int:
        rows, kind = signature(inputs)
        return rows if not self.proof.reason and kind in self.proof.proved else 0

    @property
    def process(self) -> int:
        return process_of(self.session)

    @property
    def here(self) -> bool:
        return is_here(self.session)

    def cancel_queued(self, run: Run) -> bool:
        return self._cancel(self, run)

    def count_call(self, rows: int) -> None:
        self.stats.succeeded(1, 0.0, rows)

    # -- the event loop's thread ---------------------------------------------------------------------------------------

    def rename(self, identity: str) -> None:
        """The model has another identity from now on."""
        self.model = replace(self.model, identity=identity)

    def begin(self) -> None:
        """One more run was requested."""
        self.unfinished += 1

    def end(self, runs: int) -> None:
        """Runs have ended."""
        self.unfinished -= runs

    def take_offered(self) -> list[Run]:
        """The runs requested in this iteration of the loop; they belong to the caller from now on."""
        offered, self.offered = self.offered, []
        return offered

    def hand_over(self, runs: list[Run]) -> None:
        """Give runs to the device's threads."""
        self.on_threads += len(runs)
        self.device.submit(self, runs)

    def come_back(self, runs: int) -> None:
        """Runs have left the device's threads."""
        self.on_threads -= runs

    def give_up(self) -> None:
        """One of its runs does not end: start no other."""
        self.stuck = True

    # -- the device's threads, under its lock --------------------------------------------------------------------------

    @property
    def may_start(self) -> bool:
        """Whether one more thread may enter the session."""
        return self.running < self.concurrency and not self.proving

    def enter(self, batch: list[Run]) -> bool:
        """A thread takes the batch. Returns: whether it must compare its merged run with single ones."""
        self.running += 1
        self.proving = len(batch) > 1 and self.proof.wanted(batch[0].key)
        return self.proving

    def leave(self, proved: bool) -> None:
        """The thread has left the session. proved: the result of `enter`."""
        self.running -= 1
        if proved:
            self.proving = False

    def end_merging(self, reason: str) -> bool:
        """Execute its runs one by one from now on; False if that was so before. Thread: any, without the lock."""
        merged = self.device.stop_merging(self)
        if merged:
            self.proof.reason = reason
        return merged
