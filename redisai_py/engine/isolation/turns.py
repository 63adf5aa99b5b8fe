"""Runs that wait in their process for another front door's: a session that one thread may enter is shared by all.

Such a run has not begun, so MODEL_EXECUTION_TIMEOUT does not count yet. But nobody waits forever: the process may be
stopped, or its model may have taken it over.
"""

from __future__ import annotations

import weakref

from redisai_py.backend import Session
from redisai_py.engine.isolation.session import RemoteSession

__all__ = ["began_at"]

_MOST_LIMITS = 4
"""Longest wait, as a multiple of the limit of one run."""
_WAITS: weakref.WeakKeyDictionary[RemoteSession, dict[int, tuple[float, float]]] = weakref.WeakKeyDictionary()
"""By thread: since when its run has waited, and what `began_at` said last. The watchdog's."""


def began_at(session: Session, thread_id: int | None, started: float, now: float, limit_s: float) -> float:
    """Since when a run counts that would be overdue: its turn, if it had to wait, or `now`, if it still waits.

    Args: thread_id: see `Slot`.   started: since when it counts, in monotonic seconds.   limit_s: of one run.
    """
    if not isinstance(session, RemoteSession) or session.concurrent or thread_id is None:
        return started
    process = session.process
    if process is None or not process.shared:
        return started
    waits = _WAITS.setdefault(session, {})
    first, latest = waits.get(thread_id, (started, started))
    if latest != started:  # that was another run
        first = started
    if now - first > _MOST_LIMITS * limit_s:
        return started
    turn_s = process.turn_s(session, thread_id)
    began = now if turn_s is None else min(max(turn_s, started), now)
    waits[thread_id] = first, began
    return began
