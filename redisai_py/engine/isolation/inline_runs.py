"""Runs that the event loop itself waits for, and what happens to those that take too long for that. Pure.

A hop to a worker thread and back costs more than one to a process: 90 us of 110. So the event loop sends a run that is
known to be short, and sleeps until the answer comes, as it would otherwise compute for that time itself. But it never
waits longer than `INLINE_TIMEOUT_S`: then a worker thread waits for that answer and runs it again.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from redisai_py.engine.inline import InlinePolicy

__all__ = ["INLINE_TIMEOUT_S", "RemoteInlinePolicy", "TimedSession", "WouldBlock"]

INLINE_TIMEOUT_S = 0.02


class WouldBlock(Exception):
    """The event loop must not wait for this run, so a worker thread takes it: it takes too long, or its process has
    ended or does not exist.
    """


class TimedSession(Protocol):
    """A session, as the policy needs it."""

    in_server: bool
    """Whether its runs happen in this process."""
    ran_s: float
    """Seconds in the framework of the latest run in another process."""


class RemoteInlinePolicy(InlinePolicy):
    """Whether the event loop may wait for runs in an engine process, by their duration there.

    If the process does not get a core immediately, a short run is long by this process's clock. That counts only if the
    event loop had to give up.
    """

    __slots__ = ("_session",)

    def __init__(self, limit_s: float, session: TimedSession) -> None:
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
        if session.in_server or run_s >= INLINE_TIMEOUT_S:
            super().ran(run_s, cpu_s)
        else:
            super().ran(session.ran_s, 0.0)
