"""Loaded models by identity, bounded by the memory they hold.

DESIGN. A model has three kinds of holders: the registry, its runs that have not ended, and whoever is between looking
it up and running it. The registry lets go of a model when it is unloaded or is the least recently used one past the
bound; the session is closed, on a worker thread of its device, when the last holder lets go. So a replaced or evicted
model always finishes what was begun with it. Reference counting does this exactly: `LoadedModel` is in no reference
cycle, and the finalizer holds the session but not the model.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from redisai_py.backend import Session, may_keep_state, runs_concurrently
from redisai_py.engine.batching import BatchQueue
from redisai_py.engine.inline import InlinePolicy
from redisai_py.engine.proof import MergeProof
from redisai_py.engine.stats import ModelStats
from redisai_py.model import Model

if TYPE_CHECKING:
    from redisai_py.engine.engine import Engine
    from redisai_py.engine.run import Run
    from redisai_py.engine.worker import DeviceQueue

__all__ = ["LoadedModel", "Registry"]


class LoadedModel:
    """A session with its run queue.

    model: the description, without the blob; its input and output names are the session's.
    """

    __slots__ = (
        "__weakref__",
        "arity",
        "concurrency",
        "device",
        "engine",
        "in_ring",
        "inline",
        "inputs",
        "model",
        "nbytes",
        "offered",
        "on_threads",
        "outputs",
        "proof",
        "proving",
        "queue",
        "release",
        "running",
        "session",
        "short_run_s",
        "stateful",
        "stats",
        "stuck",
        "unfinished",
    )

    def __init__(
        self,
        engine: Engine,
        model: Model,
        session: Session,
        device: DeviceQueue,
        queue: BatchQueue[Run],
        inline: InlinePolicy,
        proof: MergeProof,
        stats: ModelStats,
    ) -> None:
        self.release = weakref.finalize(self, device.close_session, session)
        """Closes the session, once, when nothing refers to the model any more, or now if called."""
        self.release.atexit = False  # at exit the process's memory goes as a whole, and the threads are gone
        self.inputs = tuple(spec.name for spec in session.inputs)
        self.outputs = tuple(session.outputs)
        self.arity = (len(self.inputs), len(self.outputs))
        self.model = replace(model, inputs=self.inputs, outputs=self.outputs, blob=b"")
        self.engine = engine
        self.session = session
        self.stateful = may_keep_state(session)
        self.nbytes = max(0, int(session.nbytes))  # sums are made of it: a plugin's None would break them
        self.device = device
        self.concurrency = device.threads_per_model if runs_concurrently(session) else 1
        """How many threads may be in the session at once."""
        self.stats = stats
        self.inline = inline
        self.proof = proof
        # Of the event loop's thread:
        self.offered: list[Run] = []
        """Runs asked for in this iteration of the loop."""
        self.unfinished = 0
        """Runs that have not ended."""
        self.short_run_s = 0.0
        """Seconds that the framework lately took for a batch, at the least: a thread may have had to wait for its turn.
        0 before the first.
        """
        self.stuck = False
        """A run of it does not end, so its session is never free again."""
        self.on_threads = 0
        """Those of them handed to the device's threads; while it is 0, `queue` and the session are the event loop's."""
        # Of the device's threads, guarded by its lock, while `on_threads` is not 0:
        self.queue = queue
        self.running = 0
        """How many threads are in the session."""
        self.proving = False
        """One of them compares merged runs with single ones. Others wait, instead of comparing the same."""
        self.in_ring = False

    @property
    def id(self) -> str:
        """The model's identity, by which it is found."""
        return self.model.identity

    @property
    def may_start(self) -> bool:
        """Whether one more thread may enter the session. Guarded by the device's lock."""
        return self.running < self.concurrency and not self.proving


class Registry:
    """Loaded models, least recently used first. Thread: the event loop's.

    Args: limit_bytes: bound on the sum of the sessions' `nbytes`, 0 is none. Models with unfinished runs are never let
          go, so the bound may be passed while they run.
          evicted: called with each that is let go to keep the bound.
    """

    def __init__(self, limit_bytes: int, evicted: Callable[[LoadedModel], object]) -> None:
        self.limit_bytes = limit_bytes
        self._evicted = evicted
        self.nbytes = 0
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def get(self, identity: str) -> LoadedModel | None:
        """The model, now the most recently used."""
        loaded = self._models.get(identity)
        if loaded is not None:
            self._models.move_to_end(identity)
        return loaded

    def peek(self, model_id: str) -> LoadedModel | None:
        """The model, in its place among the others."""
        return self._models.get(model_id)

    def values(self) -> list[LoadedModel]:
        """All, least recently used first."""
        return list(self._models.values())

    def add(self, loaded: LoadedModel) -> None:
        """Register a model, and let others go if the bound is passed."""
        self.remove(loaded.id)
        self._models[loaded.id] = loaded
        self.nbytes += loaded.nbytes
        self.shrink(keep=loaded.id)

    def remove(self, identity: str) -> None:
        """Let a model go; none of that identity is not an error."""
        loaded = self._models.pop(identity, None)
        if loaded is not None:
            self.nbytes -= loaded.nbytes

    def rename(self, before: str, identity: str) -> None:
        """Find a model by another identity; none is not an error."""
        loaded = self._models.pop(before, None)
        if loaded is not None:
            self._models[identity] = loaded

    @property
    def over_limit(self) -> bool:
        """Whether the loaded models hold more than the bound."""
        return 0 < self.limit_bytes < self.nbytes

    def shrink(self, keep: str | None = None) -> None:
        """Let idle models go, least recently used first, until the bound is kept. keep: identity of one to spare."""
        for identity, loaded in list(self._models.items()):
            if not self.over_limit:
                return
            if not loaded.unfinished and identity != keep:
                self.remove(identity)
                self._evicted(loaded)
