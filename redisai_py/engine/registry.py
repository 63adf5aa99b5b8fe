"""Loaded models by identity, bounded by their memory.

The registry drops a model when it is unloaded, or when it is the least recently used one above the limit. Runs begun
with it continue (see `queued`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from redisai_py.engine.queued import QueuedModel

__all__ = ["Registry"]


class Registry:
    """Loaded models. Thread: the event loop's.

    Args: limit_bytes: limit of the sum of the sessions' `nbytes`, 0 is none. Models with unfinished runs are never
          dropped, so the limit may be exceeded while they run. Several front doors keep it together
          (`ops.shared_limit`), and none calls `shrink`.
          evicted: called with each model that is dropped because of the limit.
    """

    def __init__(self, limit_bytes: int, evicted: Callable[[QueuedModel], object]) -> None:
        self.limit_bytes = limit_bytes
        self._evicted = evicted
        self.nbytes = 0
        self.crowded = False
        """The models of all front doors together exceed the limit, as far as this one was told."""
        self._models: dict[str, QueuedModel] = {}
        self.get: Callable[[str], QueuedModel | None] = self._models.get
        """The model of an identity, None if there is none. A look-up is no use of the model."""

    def __len__(self) -> int:
        return len(self._models)

    def values(self) -> list[QueuedModel]:
        """All, least recently used first."""
        return sorted(self._models.values(), key=attrgetter("stats.last_used"))

    def add(self, loaded: QueuedModel) -> None:
        """Register a model."""
        self.remove(loaded.id)
        self._models[loaded.id] = loaded
        self.nbytes += loaded.nbytes

    def remove(self, identity: str) -> None:
        """Drop a model, if there is one of that identity."""
        loaded = self._models.pop(identity, None)
        if loaded is not None:
            self.nbytes -= loaded.nbytes

    def rename(self, before: str, identity: str) -> None:
        """Move a model to another identity, if there is one."""
        loaded = self._models.pop(before, None)
        if loaded is not None:
            self._models[identity] = loaded

    @property
    def over_limit(self) -> bool:
        """Whether the loaded models exceed the limit."""
        return self.crowded or 0 < self.limit_bytes < self.nbytes

    def shrink(self, keep: str | None = None) -> None:
        """Drop idle models, least recently used first, until the limit holds. keep: identity of one to spare."""
        for loaded in self.values():
            if not self.over_limit:
                return
            if not loaded.unfinished and loaded.id != keep:
                self._evict(loaded)

    def drop_unused(self, last_used: Mapping[str, float]) -> None:
        """Drop models, by identity, unless they are in use or were used after these monotonic seconds."""
        for identity, until in last_used.items():
            loaded = self._models.get(identity)
            if loaded is not None and not loaded.unfinished and loaded.stats.last_used <= until:
                self._evict(loaded)

    def _evict(self, loaded: QueuedModel) -> None:
        self.remove(loaded.id)
        self._evicted(loaded)
