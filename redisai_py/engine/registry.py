"""Loaded models by identity, bounded by the memory they hold.

The registry lets go of a model when it is unloaded, or is the least recently used one past the bound. What was begun
with it goes on (see `queued`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from redisai_py.engine.queued import QueuedModel

__all__ = ["Registry"]


class Registry:
    """Loaded models, least recently used first. Thread: the event loop's.

    Args: limit_bytes: bound on the sum of the sessions' `nbytes`, 0 is none. Models with unfinished runs are never let
          go, so the bound may be passed while they run.
          evicted: called with each that is let go to keep the bound.
    """

    def __init__(self, limit_bytes: int, evicted: Callable[[QueuedModel], object]) -> None:
        self.limit_bytes = limit_bytes
        self._evicted = evicted
        self.nbytes = 0
        self._models: OrderedDict[str, QueuedModel] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def get(self, identity: str) -> QueuedModel | None:
        """The model, now the most recently used."""
        loaded = self._models.get(identity)
        if loaded is not None:
            self._models.move_to_end(identity)
        return loaded

    def peek(self, model_id: str) -> QueuedModel | None:
        """The model, in its place among the others."""
        return self._models.get(model_id)

    def values(self) -> list[QueuedModel]:
        """All, least recently used first."""
        return list(self._models.values())

    def add(self, loaded: QueuedModel) -> None:
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
