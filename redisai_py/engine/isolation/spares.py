"""An engine process per backend that waits for a model, so that none waits for a process to be forked.

It is there from the first model of a backend on, replaced soon after it was taken, and costs 1 to 3 MB, since it shares
what its zygote has imported. See docs/adr/0054.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from redisai_py.engine.isolation.managed import ManagedProcess

__all__ = ["Spares"]

_DELAY_S = 0.25
"""Seconds from the use of one to the start of the next: the model that has just got a process comes first."""


class Spares:
    """Args: start: forks one of a backend, and waits for its zygote; None if there can be none now."""

    def __init__(self, start: Callable[[str], ManagedProcess | None]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._waiting: dict[str, ManagedProcess] = {}
        self._coming: set[str] = set()

    def take(self, backend: str) -> ManagedProcess | None:
        """The spare process, if there is one; it is the caller's from now on."""
        with self._lock:
            process = self._waiting.pop(backend, None)
        return None if process is None or process.reported else process

    def prepare(self, backend: str) -> None:
        """Have one soon. Thread: any; does not wait."""
        with self._lock:
            waiting = self._waiting.get(backend)
            if backend in self._coming or not (waiting is None or waiting.reported):
                return
            self._coming.add(backend)
        timer = threading.Timer(_DELAY_S, self._add, (backend,))
        timer.daemon = True
        timer.start()

    def all(self) -> list[ManagedProcess]:
        """Those that wait."""
        with self._lock:
            return list(self._waiting.values())

    def _add(self, backend: str) -> None:
        process = None
        try:
            process = self._start(backend)
        finally:
            with self._lock:
                self._coming.discard(backend)
                if process is not None:
                    self._waiting[backend] = process
