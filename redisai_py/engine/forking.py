"""Forks processes in milliseconds on the server's request, from a process that has imported a framework: a zygote.

Requests arrive over a SOCK_SEQPACKET socket, one JSON object each: the server's number of the new process and its name
for `ps`, with its files attached. The last of those is its bond: the process ends when the server has closed the other
end. Or `copy`: the zygote forks one like itself, which serves the socket that came along and survives it. Answers:
`ready`, `forked`, `exited`. A zygote ends when its control socket does.

A process with several threads may be forked only if nothing of those threads is needed or locked.
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

from redisai_py.engine.lifetime import die_with_far_end

__all__ = ["serve_forks"]

_MAX_REQUEST = 4096
_MAX_FILES = 2
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38

Body = Callable[[dict[str, Any], list[int]], int]
"""What a new process does. Args: the request, its files. Returns: the exit status."""


def serve_forks(control: socket.socket, version: str, body: Body) -> None:
    """Serve the server until it closes the connection.

    Args: version: of the framework.   body: run in each new process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # existing objects are shared with every process until somebody writes to them
    zygote = _Zygote(control, version, body)
    try:
        zygote.run()
    finally:
        zygote.kill_all()
        if zygote.is_copy:
            os._exit(0)  # the framework's threads, for which its end might wait, were not copied


class _Zygote:
    def __init__(self, control: socket.socket, version: str, body: Body) -> None:
        self._control = control
        self._version = version
        self._body = body
        self._children: dict[int, int] = {}
        """The server's process numbers, by process id of each live process."""
        self._copies: list[int] = []
        """Process ids of its copies, to be reaped."""
        self.is_copy = False
        self._libc = ctypes.CDLL(None)
        self._watch_children()

    def _watch_children(self) -> None:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write)  # receives a byte whenever a child has ended
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        self._answer(op="ready", version=self._version)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in readable and not self._execute():
                return

    def kill_all(self) -> None:
        """Kill and reap every process."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _execute(self) -> bool:
        """Read and execute a request. Returns: False if the server has closed the connection."""
        try:
            message, fds, _, _ = socket.recv_fds(self._control, _MAX_REQUEST, _MAX_FILES)
        except ConnectionError:  # the server is gone, without reading all answers
            return False
        if not message:
            return False
        request = json.loads(message)
        if "copy" in request:
            self._copy(socket.socket(fileno=fds[0]))
        else:
            self._fork(request, fds)
        return True

    def _copy(self, control: socket.socket) -> None:
        """Fork a zygote like this one that serves `control`, and survives this one."""
        try:
            pid = os.fork()
        except OSError:  # whoever has the other end sees it close
            traceback.print_exc()
            control.close()
            return
        if pid:
            control.close()
            self._copies.append(pid)
            return
        self._control.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._control, self._children, self._copies, self.is_copy = control, {}, [], True
        self._watch_children()
        self._answer(op="ready", version=self._version)

    def _fork(self, request: dict[str, Any], fds: list[int]) -> None:
        number = request["number"]
        try:
            pid = os.fork()
        except OSError:  # no process or memory left: only this process is missing
            traceback.print_exc()
            pid = None
        if pid == 0:
            self._become(request, fds)
        for fd in fds:
            os.close(fd)
        if pid is None:
            self._answer(op="exited", number=number, status=1)
            return
        self._children[pid] = number
        self._answer(op="forked", number=number, pid=pid)

    def _become(self, request: dict[str, Any], fds: list[int]) -> None:
        status = 1
        try:
            die_with_far_end(fds.pop())
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            self._libc.prctl(_PR_SET_NAME, request["name"].encode(), 0, 0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            status = self._body(request, fds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # not `sys.exit`: the zygote's stack frames are below this one

    def _reap(self) -> None:
        self._copies = [pid for pid in self._copies if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._answer(op="exited", number=self._children.pop(pid), status=os.waitstatus_to_exitcode(status))

    def _answer(self, **message: Any) -> None:
        # A lost server is noticed where requests are read.
        with contextlib.suppress(ConnectionError):
            self._control.send(json.dumps(message).encode())
