"""The process that manages the engine processes of several front doors: started, connected to them, restarted.

It is there if the server has several front doors, on Linux. Each front door has a socket to the supervisor that brings
it one to each new manager; the manager has one that brings it one to each front door. See docs/adr/0048.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process

import structlog

from redisai_py.config import Config
from redisai_py.serve.backoff import Backoff
from redisai_py.serve.heartbeat import ALIVE, INTERVAL_S, Progress, Silence

__all__ = ["ManagerKeeper"]

_WORD = b"m"
_END_S = 3.0
"""Seconds for it to end once all front doors have."""

log = structlog.get_logger()


class ManagerKeeper:
    """Thread: the event loop's. Args: config: of the whole server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: Process | None = None
        self._doors: list[socket.socket] = []
        self._line: socket.socket | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running."""
        await self._spawn()
        self._watch = asyncio.ensure_future(self._keep_running())

    def join(self, door: socket.socket) -> None:
        """A front door's process is about to start; the other end of this socket is its own."""
        door.setblocking(False)
        self._doors.append(door)
        self._connect(door)

    def left(self, door: socket.socket) -> None:
        """A front door's process has ended."""
        if door in self._doors:
            self._doors.remove(door)

    async def stop(self) -> None:
        """End it, after the front doors have ended."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._line is not None:
            self._line.close()
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            log.warning("the manager of the engine processes does not stop in time; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            ours.send(json.dumps({"config": self._config.to_json()}).encode())
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # do not import from the working directory
                "-m",
                "redisai_py.serve.manager_process",
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        self._line = ours
        for door in self._doors:
            self._connect(door)

    def _connect(self, door: socket.socket) -> None:
        """Give a front door and the manager a socket to each other. Either may have just ended: then it is replaced."""
        if self._line is None:
            return
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other, contextlib.suppress(OSError):
            socket.send_fds(self._line, [_WORD], [one.fileno()])
            socket.send_fds(door, [_WORD], [other.fileno()])

    async def _keep_running(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        while True:
            since = clock()
            assert self._process is not None
            assert self._line is not None
            watch = asyncio.ensure_future(self._kill_if_silent(self._process, self._line))
            try:
                status = await self._process.wait()
            finally:
                watch.cancel()
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            log.error("the manager of the engine processes died; starting it again", how=how)
            line, self._line = self._line, None
            line.close()
            await asyncio.sleep(backoff.after(clock() - since))
            await self._spawn()

    async def _kill_if_silent(self, process: Process, line: socket.socket) -> None:
        clock = asyncio.get_running_loop().time
        silence, progress = Silence(self._config.stall_timeout_s), Progress(process.pid)
        began = False
        while True:
            await asyncio.sleep(INTERVAL_S)
            heard = _heard(line)
            began = began or heard
            if silence.look(clock(), heard or not began, 1.0 if heard else progress.share()):
                break
        log.error("the manager of the engine processes does not respond; killing it")
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _heard(line: socket.socket) -> bool:
    """Whether there was a heartbeat since the last call."""
    heard = False
    with contextlib.suppress(OSError):
        while line.recv(len(ALIVE)):
            heard = True
    return heard
