"""The process that manages the engine processes of several front doors: started, connected to them, restarted.

It is there if the server has several front doors, on Linux. Each front door has a socket to the supervisor that brings
it one to each new manager; the manager has one that brings it one to each front door. See docs/adr/0048.

A spare one waits, with copies of its zygotes (`manager_heirs`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from asyncio.subprocess import Process

import structlog

from redisai_py.config import Config
from redisai_py.serve.backoff import Backoff
from redisai_py.serve.child import ChildProcess, start_module
from redisai_py.serve.heartbeat import ALIVE, INTERVAL_S, Progress, Silence
from redisai_py.serve.manager_line import ANCESTOR, DOOR, HEIR, MANAGER
from redisai_py.serve.spare import Spare

__all__ = ["ManagerKeeper"]

_END_S = 3.0
"""Seconds for it to end once all front doors have."""

log = structlog.get_logger()


class _Manager(ChildProcess):
    """One process. Without front doors it waits. line: to it."""

    def __init__(self, process: Process, line: socket.socket) -> None:
        super().__init__(process)
        self.line = line

    @classmethod
    async def spawn(cls, config: Config) -> _Manager:
        """Start one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            ours.send(json.dumps({"config": config.to_json()}).encode())
            process = await start_module("redisai_py.serve.manager_process", [str(theirs.fileno())], [theirs.fileno()])
        return cls(process, ours)

    def sweep(self) -> None:
        """After its end."""
        self.line.close()


class ManagerKeeper:
    """Thread: the event loop's. Args: config: of the whole server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._manager: _Manager | None = None
        self._spare = Spare(self._spawn, self._spawn_spare)
        self._doors: list[socket.socket] = []
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running."""
        manager = await self._spawn()
        self._install(manager)
        self._watch = asyncio.ensure_future(self._keep_running(manager))

    def join(self, door: socket.socket) -> None:
        """A front door's process is about to start; the other end of this socket is its own."""
        door.setblocking(False)
        self._doors.append(door)
        if self._manager is not None:
            _introduce((self._manager.line, DOOR), (door, MANAGER))
        self._spare.prepare()

    def left(self, door: socket.socket) -> None:
        """A front door's process has ended."""
        if door in self._doors:
            self._doors.remove(door)

    async def stop(self) -> None:
        """End it, after the front doors have ended."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._spare.drop()
        manager = self._manager
        if manager is None:
            return
        manager.sweep()
        try:
            await asyncio.wait_for(manager.wait(), _END_S)
        except TimeoutError:
            log.warning("the manager of the engine processes does not stop in time; killing it")
            manager.kill()
            await manager.wait()

    async def _spawn(self) -> _Manager:
        return await _Manager.spawn(self._config)

    async def _spawn_spare(self) -> _Manager:
        spare = await self._spawn()
        if self._manager is not None:
            _introduce((self._manager.line, HEIR), (spare.line, ANCESTOR))
        return spare

    def _install(self, manager: _Manager) -> None:
        """This one works from now on; all front doors get to know it."""
        self._manager = manager
        for door in self._doors:
            _introduce((manager.line, DOOR), (door, MANAGER))

    async def _keep_running(self, manager: _Manager) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        while True:
            since = clock()
            watch = asyncio.ensure_future(self._kill_if_silent(manager))
            try:
                status = await manager.wait()
            finally:
                watch.cancel()
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            log.error("the manager of the engine processes died; another one takes its place", how=how)
            self._manager = None
            manager.sweep()
            await asyncio.sleep(backoff.after(clock() - since))
            manager = await self._spare.take()
            self._install(manager)

    async def _kill_if_silent(self, manager: _Manager) -> None:
        clock = asyncio.get_running_loop().time
        silence, progress = Silence(self._config.stall_timeout_s), Progress(manager.pid)
        began = False
        while True:
            await asyncio.sleep(INTERVAL_S)
            heard = _heard(manager.line)
            began = began or heard
            if silence.look(clock(), heard or not began, 1.0 if heard else progress.share()):
                break
        log.error("the manager of the engine processes does not respond; killing it")
        manager.kill()


def _introduce(*ends: tuple[socket.socket, bytes]) -> None:
    """Give two processes a socket to each other, with a word on the line of each. One that has ended is replaced."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pair[0], pair[1], contextlib.suppress(OSError):
        for (line, word), end in zip(ends, pair, strict=True):
            socket.send_fds(line, [word], [end.fileno()])


def _heard(line: socket.socket) -> bool:
    """Whether there was a heartbeat since the last call."""
    heard = False
    with contextlib.suppress(OSError):
        while line.recv(len(ALIVE)):
            heard = True
    return heard
