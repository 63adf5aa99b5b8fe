"""One training process: runs the script, and ends when its launcher does.

    python -m redisai_py.training.worker SCRIPT       with the script's arguments, as JSON, in REDISAI_ARGUMENTS

A killed launcher cannot stop its processes; without this they would keep training beside those of the next launcher.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, record

__all__ = ["WholeErrors", "main"]

_PR_SET_PDEATHSIG = 1
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_LAUNCHER = "REDISAI_LAUNCHER"
_ARGUMENTS = "REDISAI_ARGUMENTS"


class WholeErrors(ErrorHandler):
    """Writes the file with a failure, which the launcher reads, whole or not at all. A process may be killed while it
    writes, and PyTorch's launcher gives the training up if it finds half a file.
    """

    def record_exception(self, e: BaseException) -> None:
        """See ErrorHandler."""
        file = os.environ.get(_ERROR_FILE)
        if not file:
            super().record_exception(e)
            return
        os.environ[_ERROR_FILE] = draft = f"{file}.draft"
        try:
            super().record_exception(e)
            os.replace(draft, file)
        finally:
            os.environ[_ERROR_FILE] = file


def main() -> None:
    """Run the script of the command line as `__main__`."""
    record(_run, WholeErrors())()


def _run() -> None:
    _end_with_the_launcher()
    script = sys.argv[1]
    sys.argv = [script, *json.loads(os.environ.get(_ARGUMENTS, "[]"))]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def _end_with_the_launcher() -> None:
    if sys.platform != "linux":
        return
    launcher = os.environ.get(_LAUNCHER)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if launcher is not None and os.getppid() != int(launcher):
        raise SystemExit("the launcher is gone")  # it ended before the kernel knew of the request


if __name__ == "__main__":
    main()
