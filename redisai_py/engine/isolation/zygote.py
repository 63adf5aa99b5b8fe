"""The zygote of engine processes: imports one backend, then forks processes; see `engine.forking`.

ONNX Runtime and TensorFlow start a thread at import that only sleeps; tests show that it is harmless. A third-party
backend whose import starts threads is not imported here: each of its processes imports it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import socket
import sys
from typing import Any

from redisai_py.backend import WarmsUp, load_backend
from redisai_py.engine.forking import serve_forks
from redisai_py.engine.isolation import host, host_scripts
from redisai_py.errors import BackendNotInstalled

__all__ = ["serve"]

_MAX_TEXT = 4096
_SLEEPING_THREADS_ONLY = {"ONNX", "TF", "TFLITE", "TORCH"}
_OOM_FIRST = b"1000"


def serve(control_fd: int, backend: str) -> None:
    """Import the backend, then serve the server until it closes the connection."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=control_fd)
    version = ""
    if backend:
        try:
            loaded = load_backend(backend)
        except BackendNotInstalled as error:
            control.send(json.dumps({"op": "missing", "text": str(error)[:_MAX_TEXT]}).encode())
            return
        version = loaded.version
        if isinstance(loaded, WarmsUp):
            loaded.warm_up()
        if len(os.listdir("/proc/self/task")) > 1 and backend not in _SLEEPING_THREADS_ONLY:
            os.set_inheritable(control_fd, True)
            os.execv(sys.executable, [sys.executable, "-m", "redisai_py.engine.isolation.boot",
                                      str(control_fd), sys.argv[2], "-"])  # fmt: skip
    if backend == "TORCH":
        host_scripts.prepare()
    serve_forks(control, version, _serve_host)


def _serve_host(request: dict[str, Any], fds: list[int]) -> int:
    faulthandler.enable()  # a native crash leaves the Python stack in the log
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(_OOM_FIRST)  # if memory is short, the kernel ends this process instead of Redis
    _limit_memory(request["memory_limit_bytes"])
    if os.getpriority(os.PRIO_PROCESS, 0) < request["nice"]:
        os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    host.serve(socket.socket(fileno=fds[0]), request["name"] == "redisai-spare")
    return 0


def _limit_memory(limit_bytes: int) -> None:
    """Limit allocations beyond the framework's own; 0 is none."""
    if not limit_bytes:
        return
    pages = int(open("/proc/self/statm").read().split()[5])  # noqa: SIM115 - read at once
    limit = limit_bytes + pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
