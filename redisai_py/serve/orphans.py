"""Processes below the supervisor that have lost their parent: they stay below it, and leave no zombies.

Engine processes and copies of zygotes survive the process that forked them (docs/adr/0054). Without this they would
belong to process 1, and nobody would find them in the tree of the server's processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys

__all__ = ["adopt_orphans", "reap_orphans"]

_PR_SET_CHILD_SUBREAPER = 36
_INTERVAL_S = 1.0


def adopt_orphans() -> None:
    """Be the parent of orphans from now on, where the system knows that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def reap_orphans() -> None:
    """Reap those that have ended, until cancelled. Processes that somebody here waits for are left to them: theirs are
    reaped at once, so a child that stays a zombie for an interval is nobody's.
    """
    seen = 0
    while True:
        await asyncio.sleep(_INTERVAL_S)
        ended = _first_zombie()
        if ended and ended == seen:
            _reap(ended)
        seen = ended


def _first_zombie() -> int:
    """Process id of an ended child, 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found is not None else 0


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
