"""`redisai serve` as its users have it: real processes, told apart and ended by their ids."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.waiting import until

READY_TIMEOUT_S = 60.0
_READY = re.compile(r"is ready on (\S+):(\d+)$")


class Serving:
    """One run of `redisai serve` on a port of its own."""

    def __init__(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self.arguments = arguments
        self.began = time.monotonic()
        self._errors = open(os.memfd_create("stderr"), "r+b", buffering=0)  # noqa: SIM115 - lives with the object
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redisai_py", "serve", "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.banner: list[str] = []
        self.port = 0
        self.ready_s = 0.0

    @property
    def stderr(self) -> str:
        """What was logged up to now."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode()

    def wait_ready(self) -> None:
        """Read what it prints up to the last line of its greeting."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            text = b""
            while b"Ctrl-C" not in text:
                left_s = self.began + READY_TIMEOUT_S - time.monotonic()
                assert selector.select(max(left_s, 0)), f"not ready in time: {self.stderr}"
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"ended instead of being ready: {self.stderr}"
                text += data
                if not self.ready_s:
                    self.ready_s = time.monotonic() - self.began
        self.banner = text.decode().splitlines()
        found = _READY.search(self.banner[0])
        assert found is not None, self.banner
        self.port = int(found[2])

    @property
    def supervisor(self) -> psutil.Process:
        """The process that was started."""
        return psutil.Process(self.process.pid)

    def servers(self) -> list[psutil.Process]:
        """The server's processes as they are now, a spare one included."""
        found = []
        for process in self.supervisor.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends at this moment
                if "redisai_py.serve.server_process" in process.cmdline():
                    found.append(process)
        return found

    def server(self) -> psutil.Process:
        """The only process of a server with one front door, as it is now."""
        return next(iter(self.servers()))

    def client(self, **options: Any) -> redis.Redis:
        """A client that does not try a command again behind the test's back."""
        return redis.Redis(port=self.port, **{"socket_timeout": 20, "retry": None, **options})

    def signal(self, number: signal.Signals) -> None:
        """To the supervisor alone."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """As SIGTERM does it. Returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """Kill what is left of it but the private Redis."""
        processes = []
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = [*self.supervisor.children(recursive=True), self.supervisor]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


def redis_processes(data_dir: Path) -> list[psutil.Process]:
    """The live redis-servers that work in the directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data_dir.resolve():
                found.append(process)
    return found


def wait_until_gone(process: psutil.Process, timeout_s: float = 20) -> None:
    """Wait for the end of a process that may be nobody's child: a zombie counts as ended."""

    def gone() -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until(gone, f"{process} does not end", seconds=timeout_s)


def eventually(condition: Any, timeout_s: float = 20) -> Any:
    """The first true result of `condition`, which may fail with OSError or a redis error until then."""
    return until(condition, seconds=timeout_s, not_yet=(OSError, redis.RedisError, psutil.Error, StopIteration))


def search_path(site: Path) -> dict[str, str]:
    """The environment in which Python looks there too."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))}
