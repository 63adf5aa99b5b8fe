"""The servers under measurement, each a process of its own on 127.0.0.1 with a free port, stopped at the end by its id.

There is one redis-server, without persistence. Bare Redis is measured on its TCP port; our server and the near-cache
baseline reach the same process through its unix socket, as the private Redis of `redisai serve` is reached.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from harness.wire import Client, http_call, post

__all__ = ["LOCALHOST", "REDIS_OPTIONS", "Servers", "Target", "servers"]

LOCALHOST = "127.0.0.1"
REDIS_OPTIONS = ("--save", "", "--appendonly", "no", "--bind", LOCALHOST)
_ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 10.0
_LOOK_AGAIN_S = 0.02  # a server tells nobody that its port is open: it is tried


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _redis_binary() -> str:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    raise SystemExit("a redis-server or valkey-server is needed on PATH")


def _ping(port: int) -> None:
    with Client(port) as client:
        client.call("PING")


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is measured. upstream: the Redis behind it, if it is not that itself."""

    port: int
    process: psutil.Process
    upstream: Target | None = None

    def cpu_seconds(self) -> float:
        """CPU time so far of its process and of those that it started."""
        total = 0.0
        for each in self._family():
            with suppress(psutil.NoSuchProcess):  # it has just ended, and counts among its parent's children
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def resident_bytes(self) -> int:
        """Resident memory of the same processes."""
        total = 0
        for each in self._family():
            with suppress(psutil.NoSuchProcess):
                total += int(each.memory_info().rss)
        return total

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


class Servers:
    """Processes in a temporary directory.

    redis: bare Redis.   before: root of another checkout of this project, whose server is then measured as well.
    """

    def __init__(self, directory: Path, before: Path | None = None) -> None:
        self.directory = directory
        self.socket_path = directory / "redis.sock"
        self.before = before
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started: dict[tuple[str, ...], Target] = {}
        self.redis = self._start(
            (_redis_binary(), *REDIS_OPTIONS, "--dir", str(directory), "--unixsocket", str(self.socket_path)), _ROOT
        )

    def redisai(self, *options: str) -> Target:
        """Our server with these further options; it starts when first asked for."""
        return self._our(_ROOT, options)

    def sides(self, *options: str) -> dict[str, Target]:
        """Our server as `redisai`, and that of the other checkout as `before` if there is one."""
        found = {"redisai": self.redisai(*options)}
        if self.before is not None:
            found["before"] = self._our(self.before, options)
        return found

    def near_cache(self, model: Path, *, thread: bool) -> Target:
        """A near-cache baseline with that model."""
        program = str(_ROOT / "benchmarks" / "baseline" / "near_cache.py")
        command = (sys.executable, program, "--redis", str(self.socket_path), "--model", str(model))
        return self._once((*command, "--thread") if thread else command, _ROOT)

    def web_service(self, models: Path) -> Target:
        """The FastAPI program of `baseline` with the models of that directory, a worker per core."""
        command = (sys.executable, "-m", "uvicorn", "--app-dir", str(_ROOT / "benchmarks" / "baseline"))
        command += ("--host", LOCALHOST, "--workers", str(os.cpu_count() or 1), "--loop", "uvloop")
        command += ("--http", "httptools", "--no-access-log", "--log-level", "error", "fastapi_program:app")
        environment = {"REDIS_SOCKET": str(self.socket_path), "MODELS": str(models)}
        return self._once(command, _ROOT, lambda port: http_call(port, post("/ready", b"")), environment)

    def _our(self, root: Path, options: tuple[str, ...]) -> Target:
        command = (sys.executable, "-m", "redisai_py", "serve", "--redis", f"unix://{self.socket_path}")
        return self._once((*command, "--log-level", "warning", *options), root)

    def _once(self, command: tuple[str, ...], root: Path, *how: Any) -> Target:
        key = (str(root), *command)
        if key not in self._started:
            self._started[key] = self._start(command, root, *how)
        return self._started[key]

    def _start(
        self,
        command: tuple[str, ...],
        root: Path,
        ask: Callable[[int], object] = _ping,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Target:
        """A process that is ready. ask: raises OSError while the port that it gets does not answer."""
        port = _free_port()
        log = self.directory / f"{len(self._processes)}.log"
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'backends'}", **settings}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--port", str(port)], stdout=output, stderr=output, env=environment, cwd=self.directory
            )
        self._processes.append(process)
        give_up = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < give_up and process.poll() is None:
            with suppress(OSError):
                ask(port)
                return Target(port, psutil.Process(process.pid), getattr(self, "redis", None))
            time.sleep(_LOOK_AGAIN_S)
        raise SystemExit(f"{command[:4]} did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End every process that was started here, the Redis last."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def servers(before: Path | None = None) -> Iterator[Servers]:
    """A temporary directory with a Redis in it, and whatever else is asked for."""
    with tempfile.TemporaryDirectory(prefix="redisai-bench-") as directory:
        started = Servers(Path(directory), before)
        try:
            yield started
        finally:
            started.stop()
