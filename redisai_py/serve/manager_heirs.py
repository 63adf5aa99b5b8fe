"""What a spare manager inherits: copies of the zygotes of the one that works, so that it need not import frameworks.

A copy shares its memory with the zygote, and survives it. The manager and its spare have a socket pair; each message
there is a backend's name, with the control socket of a copy. See docs/adr/0054.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.zygotes import Zygote

__all__ = ["Heir", "inherit"]

_MOST_BYTES = 4096
"""Of a backend's name."""


class Heir:
    """The spare manager, as the one that works has it. Args: line: to it; closed with this object."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._given: set[Zygote] = set()

    def give(self, manager: Manager) -> None:
        """Give it copies of the zygotes that have come since the last call."""
        zygotes = set(manager.zygotes)
        for zygote in zygotes - self._given:
            control = zygote.copy()
            if control is not None:
                with control, contextlib.suppress(OSError):  # the spare has ended: another one will come
                    socket.send_fds(self._line, [zygote.backend.encode() or b"-"], [control.fileno()])
        self._given = zygotes


def inherit(manager: Manager, line: socket.socket) -> None:
    """Take over what comes on the line, in the background, until the manager at its other end ends."""
    threading.Thread(target=_inherit, args=(manager, line), name="redisai heir", daemon=True).start()


def _inherit(manager: Manager, line: socket.socket) -> None:
    with line, contextlib.suppress(ConnectionError):
        while True:
            name, fds, _, _ = socket.recv_fds(line, _MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            if not name:
                return
            manager.adopt("" if name == b"-" else name.decode(), socket.socket(fileno=fds[0]))
