"""A process of the server as the supervisor has it: a module of ours, run by an interpreter of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence

__all__ = ["ChildProcess", "start_module"]


async def start_module(module: str, words: Sequence[str], fds: Sequence[int]) -> Process:
    """Run a module in a session of its own, so that Ctrl-C does not reach it. fds: what it inherits."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # do not import from the working directory
        "-m",
        module,
        *words,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=fds,
    )


class ChildProcess:
    """Args: process: a started one."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the signal's number; None while it runs."""
        return self._process.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.status is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end. Returns: `status`."""
        return await self._process.wait()
