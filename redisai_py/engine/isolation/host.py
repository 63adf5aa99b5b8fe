"""The engine process: it loads models and runs them, with one thread per lane, for one or several front doors.

The main thread reads orders from the manager's control socket: each brings the control socket of a front door. When
that socket ends, the manager is gone, and the process ends immediately. On a front door's control socket come orders to
open a lane or a pipe, or to stop a run. A lane is a socket and a memory area that the front door maps too (`wire`,
`memory`), with one outstanding request.

A model that several front doors use is loaded once. What a front door has here goes when its control socket ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from redisai_py.backend import Session
from redisai_py.engine.isolation.host_lane import HostLane
from redisai_py.engine.isolation.host_messages import HeldValues
from redisai_py.engine.isolation.host_pipe import HostPipe
from redisai_py.engine.isolation.host_scripts import HostScripts
from redisai_py.engine.isolation.hosted import Hosted, Programs
from redisai_py.engine.isolation.orders import OPEN, OPEN_PIPE, OPEN_SCRIPTS, ORDER, STOP, STUCK
from redisai_py.engine.isolation.vital import VitalThread

__all__ = ["Door", "serve"]

_NAME = "redisai-engine"
_PATIENCE_S = 10.0
"""Seconds for a run of a front door that has ended. If it does not stop, the process ends: nobody watches that run."""
_LOAD_PATIENCE_S = 600.0
"""The same for a load, which takes long more often, and which another front door may wait for."""


def serve(control: socket.socket, spare: bool) -> None:
    """Work until the manager closes the connection. spare: no model is meant for it yet."""
    programs = Programs()
    while True:
        order, fds, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if len(order) != ORDER.size:
            return
        if spare:
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(_NAME)
            spare = False
        Door(socket.socket(fileno=fds[0]), programs).thread.start()


class Door:
    """What one front door has here: lanes, pipes, models by its own numbers, and values on the device."""

    def __init__(self, control: socket.socket, programs: Programs) -> None:
        self._control = control
        self._programs = programs
        self.look_after_others = programs.look_after_others
        self._lanes: dict[int, HostLane] = {}
        self._pipes: dict[int, HostPipe] = {}
        self._scripts: list[HostScripts] = []
        self._sessions_of_pipes: dict[int, int] = {}
        self._program_of: dict[int, int] = {}
        self.models: dict[int, Hosted] = {}
        self.held = HeldValues()
        self.thread = VitalThread(self._serve, "redisai door")

    def _serve(self) -> None:
        while True:
            try:
                order, fds, _, _ = socket.recv_fds(self._control, ORDER.size, 2)
            except ConnectionError:
                break
            if len(order) != ORDER.size:
                break
            what, number, detail = ORDER.unpack(order)
            if what == OPEN:
                self._lanes = {each: lane for each, lane in self._lanes.items() if lane.thread.is_alive()}
                lane = self._lanes[number] = HostLane(socket.socket(fileno=fds[0]), fds[1], self)
                lane.thread.start()
            elif what == OPEN_PIPE:
                self._open_pipe(number, socket.socket(fileno=fds[0]), fds[1], detail)
            elif what == OPEN_SCRIPTS:
                self._scripts.append(HostScripts(socket.socket(fileno=fds[0]), fds[1]))
                self._scripts[-1].thread.start()
            elif what == STOP:
                if number in self._lanes:  # it may have ended
                    self._lanes[number].stop()
            elif (pipe := self._pipes.get(number)) is not None:
                pipe.stop(detail)
        self._end()

    def _open_pipe(self, number: int, sock: socket.socket, fd: int, session: int) -> None:
        """Serve a pipe to a loaded model."""
        hosted = self.models.get(session)
        if hosted is None:  # it has been unloaded meanwhile
            sock.close()
            os.close(fd)
            return
        pipe = self._pipes[number] = HostPipe(sock, fd, hosted, self.held)
        self._sessions_of_pipes[number] = session
        pipe.thread.start()

    # -- models --------------------------------------------------------------------------------------------------------

    def load(self, session: int, program: int, build: Callable[[], Session]) -> tuple[Hosted, bool]:
        """Load a model unless it is here already. Returns: it, and whether it was. Raises: what `build` raises."""
        hosted, was_there = self._programs.load(program, build)
        self.models[session], self._program_of[session] = hosted, program
        return hosted, was_there

    def unload(self, session: int) -> None:
        """Unload a model, unless other front doors use it; its pipes end."""
        for number in [number for number, each in list(self._sessions_of_pipes.items()) if each == session]:
            del self._sessions_of_pipes[number]
            self._pipes.pop(number).close()
        if self.models.pop(session, None) is not None:
            self._programs.release(self._program_of.pop(session))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The front door is gone: stop what it ran, and forget what it had."""
        self._control.close()
        ways: list[HostLane | HostPipe | HostScripts] = [*self._lanes.values(), *self._pipes.values(), *self._scripts]
        for way in ways:
            way.hang_up()
        _wait_for([way.thread for way in ways], _PATIENCE_S)
        if any(way.is_running for way in ways) or not _wait_for([way.thread for way in ways], _LOAD_PATIENCE_S):
            os._exit(STUCK)
        for session in list(self.models):
            try:
                self.unload(session)
            except Exception:  # a plugin's own
                traceback.print_exc()


def _wait_for(threads: Sequence[threading.Thread], limit_s: float) -> bool:
    """Wait until threads have ended; False if they have not within the limit."""
    until = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
