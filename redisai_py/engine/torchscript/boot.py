"""The zygote process's program, a standalone file: `python boot.py FD`.

Nothing of the server is imported before the framework. A missing framework is an answer like any other; whatever else
goes wrong ends the process with a traceback on stderr, and the server hears the end of the socket.
"""

from __future__ import annotations

import functools
import importlib
import json
import socket
import sys

__all__ = ["main"]


def main(control_fd: int) -> None:
    """Serve on the inherited socket until the server closes it."""
    control = socket.socket(fileno=control_fd)
    try:
        process = importlib.import_module("redisai_py_torch.script_process")
    except ImportError as error:
        control.send(json.dumps({"op": "missing", "text": str(error)}).encode())
    else:
        from redisai_py.engine.forking import serve_forks
        from redisai_py.engine.torchscript.lane import FarEnd

        process.prepare()
        serve_forks(control, process.VERSION, b"redisai-script", functools.partial(process.serve, FarEnd))


if __name__ == "__main__":
    main(int(sys.argv[1]))
