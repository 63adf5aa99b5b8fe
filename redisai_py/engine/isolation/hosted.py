"""A model in its engine process: entered by one thread at a time unless its session allows more."""

from __future__ import annotations

import threading
import traceback
from contextlib import AbstractContextManager, nullcontext

from redisai_py.backend import Session, runs_concurrently

__all__ = ["Hosted"]


class Hosted:
    """session: of the framework.   guard: held during each run."""

    __slots__ = ("_concurrent", "guard", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self._concurrent = runs_concurrently(session)
        self.guard: AbstractContextManager[object] = nullcontext() if self._concurrent else threading.Lock()

    def terminate(self, thread_id: int | None) -> None:
        """Stop the run on that thread. A framework that cannot stop goes on: the server kills the process then."""
        try:
            if self._concurrent:
                self.session.terminate(thread_id)  # type: ignore[call-arg]  # a ConcurrentSession's
            else:
                self.session.terminate()
        except Exception:
            traceback.print_exc()
