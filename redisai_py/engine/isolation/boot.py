"""The first code of a zygote's process: `python -m redisai_py.engine.isolation.boot CONTROL_FD PARENT BACKEND`.

BACKEND is the backend that is imported before anything is forked; `-` for none. PARENT is the server's process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent", "main"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """End this process when the one of that id ends, whatever ends it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it had ended before the line above could take effect


def main() -> None:
    """Serve on the inherited socket until the server hangs up."""
    die_with_parent(int(sys.argv[2]))  # before the imports, of which one may not end
    from redisai_py.engine.isolation import zygote

    zygote.serve(int(sys.argv[1]), "" if sys.argv[3] == "-" else sys.argv[3])


if __name__ == "__main__":
    main()
