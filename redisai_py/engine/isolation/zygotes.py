"""A zygote's process as the server sees it: started, asked for processes, listened to. One thread each.

The thread starts the process and lives as long as it does, because the kernel ends a child with PR_SET_PDEATHSIG when
the thread that started it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
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
        """It has ended: exit status, or minus the signal's number, or None if unknown."""


class Zygote:
    """One zygote process, from its start to its end.

    Args: backend: imported before anything is forked; empty for none.   ended: called once, when it has ended.
    """

    def __init__(self, backend: str, ended: Callable[[Zygote], object]) -> None:
        self.backend = backend
        self.version = ""
        self.alive = True
        self.pid: int | None = None
        self._ended = ended
        self._missing = ""
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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
        with self._lock:
            alive = self.alive
            if alive:
                self._children[child.number] = child
        order = json.dumps({"op": "fork", "number": child.number, **options}).encode()
        try:
            if alive:
                socket.send_fds(self._control, [order], [control.fileno()])
        except OSError:
            alive = False  # it has ended, and `_live` is about to report that
        finally:
            control.close()
        if not alive:
            child.exited(None)

    def kill(self, number: int) -> None:
        """Kill a process immediately. Thread: any."""
        with contextlib.suppress(OSError):  # the zygote has ended, and its processes with it
            self._control.send(json.dumps({"op": "kill", "number": number}).encode())

    def close(self) -> None:
        """End the zygote and all its processes; they have ended when `thread` has ended."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if self.pid is not None and not self._ready.is_set():  # it is importing, and does not read its socket
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _live(self, far_end: socket.socket) -> None:
        process = None
        try:
            process = self._start(far_end)
            self.pid = process.pid
            self._listen()
        except OSError as error:
            logger.error("an engine process cannot be started", reason=str(error))
        finally:
            far_end.close()
            if process is not None:
                self._control.close()
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
        far_end.close()
        return process

    def _listen(self) -> None:
        while True:
            try:
                answer = self._control.recv(_MAX_ANSWER)
            except OSError:
                return
            if not answer:
                return
            message = json.loads(answer)
            if message["op"] == "ready":
                self.version = message["version"]
                self._ready.set()
            elif message["op"] == "missing":
                self._missing = message["text"]
            elif message["op"] == "forked":
                child = self._children.get(message["number"])
                if child is not None:
                    child.started(message["pid"])
            else:
                child = self._children.pop(message["number"], None)
                if child is not None:
                    child.exited(message["status"])

    def _finish(self) -> None:
        with self._lock:
            self.alive = False
            children, self._children = list(self._children.values()), {}
        self._ready.set()
        for child in children:
            child.exited(None)
        self._ended(self)
