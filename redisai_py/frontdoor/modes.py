"""How commands start in special states of the client: MULTI, subscriptions, MONITOR, replication, CLIENT TRACKING."""

from __future__ import annotations

from typing import Any

from redisai_py.errors import CommandError
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.state import Mode
from redisai_py.frontdoor.tracking import execute_tracked
from redisai_py.resp.templates import Burst, Command

__all__ = ["start_in_mode"]

_ENDS = (b"RESET", b"QUIT")  # of MONITOR: commands after these are not meant for it


def start_in_mode(session: Session, action: Any, command: Command | Burst) -> bool:
    """Start the next command; False if it must wait."""
    turn, mode = session.turn, session.mode
    if isinstance(command, Burst):
        if mode is Mode.TRACKED and not action.is_ai:
            return bool(action.start(session, command))
        turn.unroll(command)
        return True
    if mode is Mode.TRANSACTION:
        return bool(session.transaction.start(action, command))
    if mode is Mode.TUNNEL or (mode is Mode.MONITOR and not action.is_ai and action.name not in _ENDS):
        return _pass_on(session, action, command)
    if not action.is_ai:
        return bool(action.start(session, command))
    if not turn.idle:
        return False
    if mode is Mode.TRACKED:
        return turn.run_alone(execute_tracked(action.execute(turn), command.argv, action.reads, session))
    turn.reply(_not_allowed(command, mode))
    return True


def _pass_on(session: Session, action: Any, command: Command) -> bool:
    if not session.relay.send_in_mode(command):
        return False
    if session.mode is Mode.MONITOR and not action.name.endswith(b"SUBSCRIBE"):
        session.turn.relaying(1)
    return True


def _not_allowed(command: Command, mode: Mode) -> CommandError:
    name = command.argv[0].decode("utf-8", "replace").lower()
    state = "MONITOR" if mode is Mode.MONITOR else "subscribed"
    return CommandError(
        f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
        f"allowed in this context ({state})"
    )
