"""A server of the chatbot's own, whose data stays: the next run finds the conversations as they were."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["server_url"]

_READY = re.compile(r"is ready on (\S+:\d+)")


@contextmanager
def server_url(url: str | None, data_dir: Path) -> Iterator[str]:
    """`redis://HOST:PORT` of a server: that at `url` if one is given, else one that runs until the end of the block.

    Args:   data_dir: where its Redis keeps the data; made if there is none.
    Raises: RuntimeError: it does not start; it has said why on standard error.
    """
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "redisai_py", "serve", "--port", "0", "--data-dir", str(data_dir)]
    process = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"redis://{_address(process)}"
    finally:
        process.terminate()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := _READY.search(line):
            return found[1]
    raise RuntimeError("the server did not start")
