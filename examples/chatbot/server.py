"""A server of the chatbot's own, whose data stays: the next run finds the conversations as they were."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

__all__ = ["NotStarted", "server_url"]

_READY = re.compile(r"is ready on (\S+:\d+)")


class NotStarted(Exception):
    """The server did not start; it has said why on standard error."""


@contextmanager
def server_url(url: str | None, data_dir: Path) -> Iterator[str]:
    """URL of a server: that at `url` if one is given, else that which runs on the directory already (another chat's, or
    what a killed one left), else one that runs until the end of the block.

    Args:   data_dir: where its Redis keeps the data; made if there is none.
    Raises: NotStarted.
    """
    if url is not None or (url := _running(data_dir)) is not None:
        yield url
        return
    command = [sys.executable, "-m", "redisai_py", "serve", "--port", "0", "--data-dir", str(data_dir)]
    process = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"redis://{_address(process)}"
    finally:
        process.terminate()
        process.communicate()


def _running(data_dir: Path) -> str | None:
    """URL of the server that the directory's lock names, if that process lives and answers."""
    try:
        holder = json.loads((data_dir / "redisai.lock").read_text())
        os.kill(holder["pid"], 0)
        url = f"redis://{holder['addresses'][0]}"
        with redis.Redis.from_url(url, retry=None) as client:
            client.ping()
    except (OSError, ValueError, LookupError, redis.RedisError):
        return None
    return url


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := _READY.search(line):
            return found[1]
    raise NotStarted
