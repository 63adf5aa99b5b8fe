"""Threads without which an engine process is of no use: if one fails, the process ends, so that the server notices.

They fail if the process has no memory left for its own work, because a model took all that it may have. A run whose
thread is gone would otherwise never be answered.
"""

from __future__ import annotations

import mmap
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from redisai_py.engine.isolation.orders import UNABLE

__all__ = ["VitalThread", "or_end", "reserve"]

_NEEDED_BYTES = 16 * 1024 * 1024
"""For a thread's stack, and what Python allocates for it."""


class VitalThread(threading.Thread):
    """A thread that does this work."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(target=or_end, args=(work,), name=name, daemon=True)

    def start(self) -> None:
        """Start it; the process ends if there is no memory for it."""
        or_end(self._start)

    def _start(self) -> None:
        # A thread that fails before it runs would keep the one that started it waiting forever.
        reserve()
        super().start()


def reserve() -> None:
    """Raises: OSError: the process has not even the memory for one more thread."""
    mmap.mmap(-1, _NEEDED_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def or_end(work: Callable[[], None]) -> None:
    """Do the work; the process ends if it raises."""
    try:
        work()
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
        os._exit(UNABLE)
