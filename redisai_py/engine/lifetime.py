"""Makes a process end when another one does, for whatever reason. The kernel ends it, so it need not be able to act."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket

__all__ = ["die_with_far_end", "die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """End this process when its parent with that id ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the parent had ended before the line above took effect


def die_with_far_end(fd: int) -> None:
    """End this process when no process holds the other end of a socket pair any more, or somebody shuts it down.

    Nothing may ever be sent there. Whoever has the other end need not be this process's parent. fd: stays open.
    """
    bond = socket.socket(fileno=fd)
    fcntl.fcntl(bond, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(bond, fcntl.F_SETSIG, signal.SIGKILL)  # for whatever happens to it
    fcntl.fcntl(bond, fcntl.F_SETFL, fcntl.fcntl(bond, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        bond.recv(1, socket.MSG_DONTWAIT)
        os._exit(1)  # the other end was closed before the lines above took effect
    bond.detach()
