"""What others see of a session that may be in an engine process."""

from __future__ import annotations

from redisai_py.backend import Session
from redisai_py.engine.isolation.session import RemoteSession

__all__ = ["is_here", "process_of", "was_there"]


def is_here(session: Session) -> bool:
    """Whether a session's model is in the server's own process, or in none at this moment."""
    return not isinstance(session, RemoteSession) or session.in_server or not process_of(session)


def process_of(session: Session) -> int:
    """The id of a session's engine process; 0 if it is in the server's own, or in none at this moment."""
    process = session.process if isinstance(session, RemoteSession) else None
    return 0 if process is None else process.pid or 0


def was_there(session: Session) -> bool:
    """Whether a session's model was in its process already, for another front door."""
    return isinstance(session, RemoteSession) and session.was_there
