"""The zygote of engine processes: imports one backend, then forks processes in milliseconds on the server's request.

Requests arrive over a SOCK_SEQPACKET socket, one JSON object each: `fork` (with the new process's control socket) and
`kill`, both with the server's number of the process. Answers are `ready`, `missing`, `forked` and `exited`. Only the
zygote reaps its children, so a `kill` never hits a process that reuses a dead one's id.

A process with several threads may be forked only if nothing of those threads is needed or locked. ONNX Runtime and
TensorFlow start one at import that only sleeps; tests show that it is harmless. A third-party backend whose import
starts threads is not imported here: each of its processes imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any

from redisai_py.backend import load_backend
from redisai_py.engine.isolation import host
from redisai_py.engine.isolation.lifetime import die_with_parent
from redisai_py.errors import BackendNotInstalled

__all__ = ["serve"]

_MAX_ORDER = 4096
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_SLEEPING_THREADS_ONLY = {"ONNX", "TF", "TFLITE", "TORCH"}
_OOM_FIRST = b"1000"


def serve(control_fd: int, backend: str) -> None:
    """Import the backend, then serve the server until it closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=control_fd)
    version = ""
    if backend:
        try:
            version = load_backend(backend).version
        except BackendNotInstalled as error:
            control.send(json.dumps({"op": "missing", "text": str(error)[:_MAX_ORDER]}).encode())
            return
        if len(os.listdir("/proc/self/task")) > 1 and backend not in _SLEEPING_THREADS_ONLY:
            os.set_inheritable(control_fd, True)
            os.execv(sys.executable, [sys.executable, "-m", "redisai_py.engine.isolation.boot",
                                      str(control_fd), sys.argv[2], "-"])  # fmt: skip
    gc.collect()
    gc.freeze()  # existing objects are shared with every process until somebody writes to them
    zygote = _Zygote(control)
    try:
        zygote.run(version)
    finally:
        zygote.kill_all()


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}
        """The server's process numbers, by process id of each live process."""
        self._libc = ctypes.CDLL(None)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self, version: str) -> None:
        self._say(op="ready", version=version)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in readable and not self._obey():
                return

    def kill_all(self) -> None:
        """Kill and reap every process."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _obey(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self._control, _MAX_ORDER, 1)
        except ConnectionError:  # the server is gone, without reading all answers
            return False
        if not message:
            return False
        order = json.loads(message)
        if order["op"] == "fork":
            self._fork(order, fds[0])
        else:
            for pid, number in self._children.items():
                if number == order["number"]:
                    os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, order: dict[str, Any], fd: int) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no process or memory left
            traceback.print_exc()
            os.close(fd)
            self._say(op="exited", number=order["number"], status=1)
            return
        if pid == 0:
            self._become_host(order, fd, parent)
        os.close(fd)
        self._children[pid] = order["number"]
        self._say(op="forked", number=order["number"], pid=pid)

    def _become_host(self, order: dict[str, Any], fd: int, parent: int) -> None:
        status = 1
        try:
            die_with_parent(parent)
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            self._libc.prctl(_PR_SET_NAME, b"redisai-engine", 0, 0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            faulthandler.enable()  # a native crash leaves the Python stack in the log
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
                file.write(_OOM_FIRST)  # if memory is short, the kernel ends this process instead of Redis
            _limit_memory(order["memory_limit_bytes"])
            host.serve(socket.socket(fileno=fd))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # not `sys.exit`: the zygote's stack frames are below this one

    def _reap(self) -> None:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._say(op="exited", number=self._children.pop(pid), status=os.waitstatus_to_exitcode(status))

    def _say(self, **message: Any) -> None:
        # A lost server is noticed where requests are read.
        with contextlib.suppress(ConnectionError):
            self._control.send(json.dumps(message).encode())


def _limit_memory(limit_bytes: int) -> None:
    """Limit allocations beyond the framework's own; 0 is none."""
    if not limit_bytes:
        return
    pages = int(open("/proc/self/statm").read().split()[5])  # noqa: SIM115 - read at once
    limit = limit_bytes + pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
