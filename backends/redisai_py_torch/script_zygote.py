"""The zygote: imports torch once, then forks worker processes in milliseconds on the server's request.

The server's orders come over a SOCK_SEQPACKET unix socket, one JSON object each: `fork` (with the worker's socket and
the file that it shares with the server attached) and `kill`, both naming the worker by the server's number; answers are
`ready`, `forked` and `exited`. The zygote alone reaps its children, so a `kill` can never hit a process that got a dead
worker's id. It ends, and its workers with it, when the server does.

Rules: one thread; nothing here or before a fork may start another thread or touch CUDA. docs/adr/0009.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from redisai_py_torch.script_language import prepare
from redisai_py_torch.script_worker import OUT_OF_MEMORY_STATUS, SharedCalls, WorkerOptions
from redisai_py_torch.script_worker import serve as serve_worker

__all__ = ["serve"]

_MAX_ORDER = 4096
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38


def serve(control_fd: int, shared: Callable[[int], SharedCalls]) -> None:
    """Obey the server on the inherited socket until it hangs up. shared: opens the file that the server shares."""
    prepare()
    # Existing objects are shared with every worker until somebody writes to them, so keep the collector away.
    gc.collect()
    gc.freeze()
    zygote = _Zygote(socket.socket(fileno=control_fd), shared)
    try:
        zygote.run()
    finally:
        zygote.kill_all()


class _Zygote:
    def __init__(self, control: socket.socket, shared: Callable[[int], SharedCalls]) -> None:
        self._control = control
        self._shared = shared
        self._workers: dict[int, int] = {}
        """Worker numbers of the server, by process id of each living worker."""
        self._libc = ctypes.CDLL(None)
        # This pipe receives a byte whenever a child has ended.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        self._say(op="ready", version=torch.__version__)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in readable and not self._obey():
                return

    def kill_all(self) -> None:
        """Kill and reap every worker."""
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)

    def _obey(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self._control, _MAX_ORDER, 2)
        except ConnectionError:  # the server has gone, and had not read all answers
            return False
        if not message:
            return False
        order = json.loads(message)
        if order["op"] == "fork":
            self._fork(order, fds)
        else:
            for pid, worker in self._workers.items():
                if worker == order["worker"]:
                    os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, order: dict[str, Any], fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError:  # no process or memory left: only this worker's jobs fail, not the zygote
            traceback.print_exc()
            _close(fds)
            self._say(op="exited", worker=order["worker"], status=1)
            return
        if pid == 0:
            self._become_worker(order, *fds)
        _close(fds)
        self._workers[pid] = order["worker"]
        self._say(op="forked", worker=order["worker"], pid=pid)

    def _become_worker(self, order: dict[str, Any], sock_fd: int, memory_fd: int) -> None:
        status = 1
        try:
            zygote = os.getppid()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            self._libc.prctl(_PR_SET_NAME, b"redisai-script", 0, 0, 0)
            if os.getppid() != zygote:
                os._exit(1)  # the zygote ended before the line above took effect
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            # A script's `print` is discarded; the interpreter's last words on a crash go to the server's log.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)
            options = WorkerOptions(order["device"], order["memory_limit_bytes"], order["intra_op_threads"])
            serve_worker(socket.socket(fileno=sock_fd), self._shared(memory_fd), options)
            status = 0
        except MemoryError:
            status = OUT_OF_MEMORY_STATUS
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # not `sys.exit`: the zygote's stack frames are below this one

    def _reap(self) -> None:
        for pid in list(self._workers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._say(op="exited", worker=self._workers.pop(pid), status=os.waitstatus_to_exitcode(status))

    def _say(self, **message: Any) -> None:
        # A lost server is noticed where requests are read.
        with contextlib.suppress(ConnectionError):
            self._control.send(json.dumps(message).encode())


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
