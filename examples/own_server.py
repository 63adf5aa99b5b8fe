"""A server of one's own for the length of an example: a free port, a private Redis, a temporary directory."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["server_url"]

_READY = re.compile(r"is ready on (\S+:\d+)")


@contextmanager
def server_url(url: str | None = None) -> Iterator[str]:
    """`redis://HOST:PORT` of a server: the one at `url`, or else one that is started here and stopped at the end.

    What the server logs (warnings and errors) is seen on standard error.   Raises: RuntimeError if it does not start.
    """
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="redisai-") as directory:
        command = [sys.executable, "-m", "redisai_py", "serve", "--port", "0", "--data-dir", directory]
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
