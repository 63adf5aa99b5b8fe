"""Runs that the event loop itself waits for, and what becomes of those that take too long for that. Pure.

A hop to a worker thread and back costs more than one to a process: 90 us of 110. So the event loop sends a run that is
short by all that is known, and sleeps until the answer is there, as it would compute for as long itself. But never for
longer than `PATIENCE_S`: then the run is a worker thread's, which waits for that answer first and runs it again.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from redisai_py.engine.inline import InlinePolicy

__all__ = ["PATIENCE_S", "ElsewherePolicy", "NotAtOnce", "Ran"]

PATIENCE_S = 0.02


class NotAtOnce(Exception):
    """A worker thread must take the run: it takes too long, or its process has ended or is not there."""


class Ran(Protocol):
    """What the policy must know of a session."""

    in_server: bool
    """Its runs happen in this process."""
    ran_s: float
    """Seconds in the framework of the latest run elsewhere."""


class ElsewherePolicy(InlinePolicy):
    """Whether the event loop may wait for runs in an engine process: by the time that they take there.

    A process that is not given a core at once makes a short run long by this process's clock. That counts only if the
    event loop had to give up.
    """

    __slots__ = ("_session",)

    def __init__(self, limit_s: float, session: Ran) -> None:
        super().__init__(limit_s)
        self._session = session

    def measured(self, key: Hashable, rows: int, run_s: float, cpu_s: float) -> None:
        """See InlinePolicy."""
        session = self._session
        if session.in_server:
            super().measured(key, rows, run_s, cpu_s)
        else:
            super().measured(key, rows, session.ran_s, session.ran_s)

    def ran(self, run_s: float, cpu_s: float) -> None:
        """See InlinePolicy."""
        session = self._session
        if session.in_server or run_s >= PATIENCE_S:
            super().ran(run_s, cpu_s)
        else:
            super().ran(session.ran_s, 0.0)
