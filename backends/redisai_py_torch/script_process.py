"""A script's process, forked from one that has imported torch. docs/adr/0009.

Nothing here may start a thread or touch CUDA before a fork.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from redisai_py_torch.script_language import prepare
from redisai_py_torch.script_worker import OUT_OF_MEMORY_STATUS, SharedCalls, WorkerOptions
from redisai_py_torch.script_worker import serve as serve_worker

__all__ = ["VERSION", "prepare", "serve"]

VERSION = torch.__version__


def serve(shared: Callable[[int], SharedCalls], request: dict[str, Any], fds: list[int]) -> int:
    """Serve the server on a socket and a file that it shares, which `shared` opens. Returns: the exit status."""
    sock_fd, memory_fd = fds
    # A script's `print` is discarded; the interpreter's last words on a crash go to the server's log.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    options = WorkerOptions(request["device"], request["memory_limit_bytes"], request["intra_op_threads"])
    try:
        serve_worker(socket.socket(fileno=sock_fd), shared(memory_fd), options)
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    return 0
