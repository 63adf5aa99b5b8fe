"""The traditional programs as processes, with as many workers as there are cores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
from harness.servers import LOCALHOST, Servers, Target

from benchmarks.chatbot.models import Models

__all__ = ["STATE_TTL_S", "WORKERS", "programs"]

WORKERS = os.cpu_count() or 1
STATE_TTL_S = 3600
_THREADS = 4
_ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 30.0
_LOOK_AGAIN_S = 0.05  # a program tells nobody that it is ready: it is tried


def _gunicorn(port: int) -> list[str]:
    # Threads, since gunicorn's plain workers close the connection after every message.
    options = ["--worker-class", "gthread", "--threads", str(_THREADS), "--keep-alive", "75", "--log-level", "error"]
    binding = ["--bind", f"{LOCALHOST}:{port}", "--workers", str(WORKERS)]
    return ["-m", "gunicorn", *binding, *options, "benchmarks.chatbot.flask_program:app"]


def _uvicorn(port: int) -> list[str]:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    binding = ["--host", LOCALHOST, "--port", str(port), "--workers", str(WORKERS)]
    return ["-m", "uvicorn", *binding, *options, "benchmarks.chatbot.fastapi_program:app"]


@contextmanager
def programs(servers: Servers, models: Models) -> Iterator[dict[str, Target]]:
    """`flask` and `fastapi`, ready, on the Redis of `servers`; they reach it through its unix socket, as ours does."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "backends")]),
        "REDIS_SOCKET": str(servers.socket_path),
        "MODELS": str(models.directory.resolve()),
        "STATE_TTL_S": str(STATE_TTL_S),
    }
    started: list[subprocess.Popen[bytes]] = []
    targets = {}
    try:
        for name, command in (("flask", _gunicorn), ("fastapi", _uvicorn)):
            port = _free_port()
            log = servers.directory / f"{name}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, *command(port)], stdout=output, stderr=output, env=environment
                )
            started.append(process)
            _wait_until_ready(port, process, log)
            targets[name] = Target(port, psutil.Process(process.pid), servers.redis)
        yield targets
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers over HTTP; there is no page at /, so that status 404 is an answer."""
    give_up = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            urlopen(f"http://{LOCALHOST}:{port}/", timeout=5)
        except HTTPError:
            return
        except OSError:
            time.sleep(_LOOK_AGAIN_S)
    raise SystemExit(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}")
