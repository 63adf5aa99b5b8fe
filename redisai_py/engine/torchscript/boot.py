"""The zygote process's program, a standalone file: `python boot.py FD`.

It imports nothing of the server. A missing framework is an ordinary answer; any other failure ends the process with a
traceback on stderr, and the server sees the end of the socket.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys

__all__ = ["main"]


def main(control_fd: int) -> None:
    """Serve on the inherited socket until the server closes it."""
    try:
        zygote = importlib.import_module("redisai_py_torch.script_zygote")
    except ImportError as error:
        answer = {"op": "missing", "text": str(error)}
        socket.socket(fileno=control_fd).send(json.dumps(answer).encode())
    else:
        zygote.serve(control_fd)


if __name__ == "__main__":
    main(int(sys.argv[1]))
