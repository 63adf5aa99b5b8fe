"""The servers under measurement, each a process of its own on 127.0.0.1 with a free port, stopped at the end by its id.

There is one redis-server, without persistence. Bare Redis is measured on its TCP port; our server and the near-cache
baseline reach the same process through its unix socket, as the private Redis of `redisai serve` is reached.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from harness.wire import Client

__all__ = ["LOCALHOST", "REDIS_OPTIONS", "Servers", "servers"]

LOCALHOST = "127.0.0.1"
REDIS_OPTIONS = ("--save", "", "--appendonly", "no", "--bind", LOCALHOST)
_ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 10.0


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


class Servers:
    """Processes in a temporary directory. redis, redisai: ports; the latter starts when first asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket_path = directory / "redis.sock"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ours: dict[tuple[str, ...], tuple[int, int]] = {}
        self._baselines: dict[tuple[str, bool], int] = {}
        self.redis = self._start(
            [_redis_binary(), *REDIS_OPTIONS, "--dir", str(directory), "--unixsocket", str(self.socket_path)], "--port"
        )[0]

    def redisai(self, *options: str) -> int:
        """The port of our server with these further options."""
        return self._our(options)[0]

    def resident_bytes(self, *options: str) -> int:
        """Resident memory of that server's processes."""
        process = psutil.Process(self._our(options)[1])
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))

    def _our(self, options: tuple[str, ...]) -> tuple[int, int]:
        if options not in self._ours:
            command = [sys.executable, "-m", "redisai_py", "serve", "--redis", f"unix://{self.socket_path}"]
            self._ours[options] = self._start([*command, "--log-level", "warning", *options], "--port")
        return self._ours[options]

    def near_cache(self, model: Path, *, thread: bool) -> int:
        """The port of a near-cache baseline with that model."""
        key = (str(model), thread)
        if key not in self._baselines:
            program = str(Path(__file__).resolve().parents[1] / "baseline" / "near_cache.py")
            command = [sys.executable, program, "--redis", str(self.socket_path), "--model", str(model)]
            self._baselines[key] = self._start([*command, *(["--thread"] if thread else [])], "--port")[0]
        return self._baselines[key]

    def _start(self, command: list[str], port_option: str) -> tuple[int, int]:
        port = _free_port()
        log = self.directory / f"{len(self._processes)}.log"
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'backends'}"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, port_option, str(port)], stdout=output, stderr=output, env=environment, cwd=self.directory
            )
        self._processes.append(process)
        give_up = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < give_up and process.poll() is None:
            with contextlib.suppress(OSError), Client(port) as client:
                client.call("PING")
                return port, process.pid
            time.sleep(0.02)  # there is nothing to wait on: the port opens when it opens
        raise SystemExit(f"{command[:4]} did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End every process that was started here, the Redis last."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """A temporary directory with a Redis in it, and whatever else is asked for."""
    with tempfile.TemporaryDirectory(prefix="redisai-bench-") as directory:
        started = Servers(Path(directory))
        try:
            yield started
        finally:
            started.stop()
