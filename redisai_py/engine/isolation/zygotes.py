"""A zygote's process as the server sees it: started, asked for processes, listened to. One thread each.

The thread starts the process and lives as long as it does, because the kernel ends a child with PR_SET_PDEATHSIG when
the thread that started it ends.

The forked processes survive their zygote, so that its end costs nobody anything. Each has a bond to this process, a
socket pair on which nothing is sent: if one end is closed the kernel kills the forked process, even one that hangs, and
if the forked process ends, its end is closed. docs/adr/0054.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from redisai_py.errors import BackendError, BackendNotInstalled

__all__ = ["Child", "Zygote"]

_MODULE = "redisai_py.engine.isolation.boot"
_MAX_ANSWER = 1 << 16

logger = structlog.get_logger()


class Child(Protocol):
    """A forked process, which gets the zygote's reports about it."""

    number: int

    def started(self, pid: int) -> None:
        """It runs."""

    def exited(self, status: int | None) -> None:
        """It has ended, or was never started. status: or minus the signal's number; None if its zygote ended before."""


class Zygote:
    """One zygote process, from its start to its end.

    Args: backend: imported before anything is forked; empty for none.   ended: called once, when it has ended.
          control: of one that runs, a copy of another manager's; None to start one.
    """

    def __init__(self, backend: str, ended: Callable[[Zygote], object], control: socket.socket | None = None) -> None:
        self.backend = backend
        self.version = ""
        self.alive = True
        self.was_ready = False
        self.pid: int | None = None
        self._ended = ended
        self._closing = False
        self._missing = ""
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._children: dict[int, _Bonded] = {}
        far_end = None
        if control is None:
            control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = control
        self.thread = threading.Thread(
            target=self._live, args=(far_end,), name=f"redisai {backend} zygote", daemon=True
        )
        self.thread.start()

    def wait_ready(self, timeout_s: float | None) -> None:
        """Wait until processes can be forked. Thread: any but the event loop's.

        Raises: BackendNotInstalled: the backend cannot be imported.   BackendError: the process ended meanwhile.
                TimeoutError: it was not ready in time.
        """
        if not self._ready.wait(timeout_s):
            raise TimeoutError
        if self._missing:
            raise BackendNotInstalled(self._missing)
        if not self.alive:
            raise BackendError(f"ERR Could not load backend: the process that imports {self.backend} ended")

    def fork(self, child: Child, control: socket.socket, options: dict[str, Any]) -> None:
        """Fork a process that serves `control`, which is closed here; `child` gets the reports about it."""
        try:
            bond, far_end = socket.socketpair()
        except OSError:  # no files are left
            control.close()
            child.exited(None)
            return
        with self._lock:
            alive = self.alive
            if alive:
                self._children[child.number] = _Bonded(child, bond)
        order = json.dumps({"number": child.number, **options}).encode()
        with control, far_end:
            if alive:
                with contextlib.suppress(OSError):  # it has ended, and `_live` is about to report that
                    socket.send_fds(self._control, [order], [control.fileno(), far_end.fileno()])
        if not alive:
            bond.close()
            child.exited(None)

    def copy(self) -> socket.socket | None:
        """The control socket of a copy, which lives until that socket is closed everywhere; None if it has ended."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with far:
                socket.send_fds(self._control, [json.dumps({"copy": True}).encode()], [far.fileno()])
        except OSError:
            near.close()
            return None
        return near

    def kill(self, number: int) -> None:
        """Kill a process immediately. Thread: any."""
        with self._lock:
            bonded = self._children.get(number)
        if bonded is not None:
            bonded.kill()

    def close(self) -> None:
        """End the zygote and all its processes; they have ended when `thread` has ended."""
        with self._lock:
            self._closing = True
            children = list(self._children.values())
        for bonded in children:
            bonded.kill()
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if self.pid is not None and not self._ready.is_set():  # it is importing, and does not read its socket
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _live(self, far_end: socket.socket | None) -> None:
        process = None
        try:
            if far_end is not None:
                with far_end:
                    process = self._start(far_end)
                self.pid = process.pid
                if self._closing:  # it would import its framework first
                    process.kill()
            self._listen()
        except OSError as error:
            logger.error("an engine process cannot be started", reason=str(error))
        finally:
            self._control.close()
            if process is not None:
                process.wait()
            self._finish()

    def _start(self, far_end: socket.socket) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
            # A thread of a library would not survive the fork.
            "OPENBLAS_NUM_THREADS": "1",
        }
        fd = far_end.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(fd), str(os.getpid()), self.backend or "-"],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is meant for the supervisor
        )
        return process

    def _listen(self) -> None:
        while True:
            try:
                answer = self._control.recv(_MAX_ANSWER)
            except ConnectionResetError:  # it left a request unread; what it has said is still to be read
                continue
            except OSError:
                return
            if not answer:
                return
            message = json.loads(answer)
            if message["op"] == "ready":
                self.version = message["version"]
                self.was_ready = True
                self._ready.set()
            elif message["op"] == "missing":
                self._missing = message["text"]
            elif message["op"] == "forked":
                bonded = self._children.get(message["number"])
                if bonded is not None:
                    bonded.started(message["pid"])
            else:
                self._exited(message["number"], message["status"])

    def _exited(self, number: int, status: int | None) -> None:
        with self._lock:
            bonded = self._children.pop(number, None)
        if bonded is not None:
            bonded.bond.close()
            bonded.child.exited(status)

    def _finish(self) -> None:
        with self._lock:
            self.alive = False
            children = dict(self._children)
        self._ready.set()
        self._ended(self)
        for number, bonded in children.items():
            if not bonded.runs:
                self._exited(number, None)
        self._outlive()

    def _outlive(self) -> None:
        """Wait for the ends of the processes that have survived the zygote."""
        poll = select.poll()
        numbers = {bonded.bond.fileno(): number for number, bonded in self._children.items()}
        for fd in numbers:
            poll.register(fd, 0)  # their ends, which are always reported
        while numbers:
            for fd, _ in poll.poll():
                poll.unregister(fd)
                self._exited(numbers.pop(fd), None)


class _Bonded:
    """A forked process and this process's end of the bond to it. runs: as far as the zygote has said."""

    def __init__(self, child: Child, bond: socket.socket) -> None:
        self.child = child
        self.bond = bond
        self.runs = False

    def started(self, pid: int) -> None:
        self.runs = True
        self.child.started(pid)

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self.bond.shutdown(socket.SHUT_RDWR)
