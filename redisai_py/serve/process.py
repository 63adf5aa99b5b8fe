"""A server process as its supervisor has it: started, given its orders, ended.

The process has its own session, so Ctrl-C does not reach it, and nothing that it leaves behind survives it. See
`redisai_py.serve.heartbeat` for the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable

from redisai_py.config import Config
from redisai_py.serve.child import ChildProcess, start_module
from redisai_py.serve.heartbeat import Orders

__all__ = ["Lines", "ServerProcess"]


class Lines:
    """What a process inherits besides its control line, and who is told how it is: nobody, if it is the only one.

    name, door, seat: see `Orders`.   inherited: file descriptors by name.
    """

    name = "server"
    door = seat = 0

    def __init__(self, inherited: dict[str, list[int]]) -> None:
        self.inherited = inherited

    def opened(self) -> None:
        """The process has its copies of them."""

    async def join(self, broken: Callable[[], object]) -> None:
        """The process is about to get its orders. broken: to be called if it has to be killed."""

    def says(self, word: bytes) -> None:
        """The process said this (`redisai_py.serve.heartbeat`)."""

    def silent(self, silent: bool) -> None:
        """The process has, or has not, given a sign of life in the last interval."""

    def ended(self) -> None:
        """The process has ended."""


class ServerProcess(ChildProcess):
    """One process. Without orders it imports its modules and waits.

    reader: its messages.
    """

    def __init__(
        self, lines: Lines, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.lines = lines
        self.reader = reader
        super().__init__(process)
        self._writer = writer
        self._swept = False

    @classmethod
    async def spawn(cls, lines: Lines) -> ServerProcess:
        """Start a process."""
        ours, theirs = socket.socketpair()
        fds = {"control": [theirs.fileno()], **lines.inherited}
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            process = await start_module(
                "redisai_py.serve.server_process",
                [f"{name}={','.join(map(str, numbers))}" for name, numbers in fds.items()],
                [number for numbers in fds.values() for number in numbers],
            )
        lines.opened()
        return cls(lines, process, reader, writer)

    async def order(self, config: Config, suspects: frozenset[bytes], careful: bool) -> None:
        """Let it serve; see `Orders`."""
        lines = self.lines
        await lines.join(self.kill)
        self._writer.write(Orders(config, suspects, careful, lines.name, lines.door, lines.seat).to_line())

    def sweep(self) -> None:
        """After its end: kill what it has left, since a looping script would never notice that its server is gone."""
        if self._swept:
            return
        self._swept = True
        self._writer.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.lines.ended()
