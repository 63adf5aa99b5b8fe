"""Counts the moves between source files that one warm command takes: how many files a reader opens, one after another.

    python scripts/count_moves.py [--path]          --path prints every move

A server runs in this process beside a real redis-server. Each command is sent until nothing about it is new (the model
has left its engine process, because its runs are short), and then once more while the server's thread is traced. A move
is a call from one file of `redisai_py` to another, or a callback from the event loop into another file than the one
that ran last. Busy polling is off: how often it looks depends on time.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hiredis
import numpy as np
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import make_models  # noqa: E402

from redisai_py.config import Config  # noqa: E402
from redisai_py.frontdoor.server import serve  # noqa: E402

__all__ = ["LIMITS", "count_moves", "main"]

LIMITS = {"AI.TENSORSET": 12, "AI.MODELEXECUTE": 18, "AI.DAGEXECUTE": 23}
"""The most moves that a warm command may take. They may only shrink."""
_PACKAGE = str(ROOT / "redisai_py") + "/"
_WARM_UP = 20
_PROOF_S = 30.0
_SETTLE_S = 0.05
_TRACES = 5
"""The shortest counts: the server's periodic tasks may run during the others."""
_FLOATS = np.ones(2, np.float32).tobytes()
_SET = ("AI.TENSORSET", "moves:in", "FLOAT", 1, 2, "BLOB", _FLOATS)
_RUN = ("AI.MODELEXECUTE", "moves:model", "INPUTS", 1, "moves:in", "OUTPUTS", 1, "moves:out")
_GET = ("AI.TENSORGET", "moves:out", "BLOB")
_COMMANDS: dict[str, tuple[Any, ...]] = {
    "AI.TENSORSET": _SET,
    "AI.MODELEXECUTE": _RUN,
    "AI.DAGEXECUTE": ("AI.DAGEXECUTE", "ROUTING", "moves", "|>", *_SET, "|>", *_RUN, "|>", *_GET),
}


class _Tracer:
    """A profile function for `sys.setprofile`. moves: (from, to, function), files below the package."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, str, str]] = []
        self._last = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        file = _file(frame)
        if not file:
            return
        caller = frame.f_back
        while caller is not None and not _file(caller):
            caller = caller.f_back
        before = _file(caller) if caller is not None else self._last
        if before != file:
            self.moves.append((before, file, frame.f_code.co_name))
        self._last = file


def _file(frame: FrameType | None) -> str:
    name = frame.f_code.co_filename if frame is not None else ""
    return name.removeprefix(_PACKAGE) if name.startswith(_PACKAGE) else ""


class _Server:
    """Our server on a thread of this process."""

    def __init__(self, redis_url: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._config = Config(redis=redis_url, port=0, busy_poll_us=0)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self._config, self._listener, stop=self._stop, ready=self._ready.set)

    def trace(self, tracer: _Tracer | None) -> None:
        """Trace the server's thread from now on, or not any more."""
        done = threading.Event()

        def change() -> None:
            sys.setprofile(tracer)
            done.set()

        self._loop.call_soon_threadsafe(change)
        done.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def count_moves(redis_url: str) -> dict[str, list[tuple[str, str, str]]]:
    """The moves of each command: (from, to, function), from file to file; "" is the event loop at the start."""
    server = _Server(redis_url)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            _call(
                client, "AI.MODELSTORE", "moves:model", "ONNX", "CPU", "BLOB", make_models.BUILDERS["onnx_mul.onnx"]()
            )
            _call(client, *_SET)
            _prove(client)
            return {name: _moves_of(server, client, words) for name, words in _COMMANDS.items()}
    finally:
        server.stop()


def _prove(client: socket.socket) -> None:
    """Run the model until it has left its engine process."""
    until = time.monotonic() + _PROOF_S
    while time.monotonic() < until:
        _call(client, *_RUN)
        words = _call(client, "AI.INFO", "moves:model", "FULL")
        if dict(zip(words[::2], words[1::2], strict=True))[b"process"] == 0:
            return
    raise SystemExit("the model is still in an engine process")


def _moves_of(server: _Server, client: socket.socket, words: Sequence[Any]) -> list[tuple[str, str, str]]:
    for _ in range(_WARM_UP):
        _call(client, *words)
    return min((_trace(server, client, words) for _ in range(_TRACES)), key=len)


def _trace(server: _Server, client: socket.socket, words: Sequence[Any]) -> list[tuple[str, str, str]]:
    time.sleep(_SETTLE_S)
    tracer = _Tracer()
    server.trace(tracer)
    _call(client, *words)
    time.sleep(_SETTLE_S)
    server.trace(None)
    return tracer.moves


def _call(client: socket.socket, *words: Any) -> Any:
    client.sendall(hiredis.pack_command(words))
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        reader.feed(client.recv(65536))
    if isinstance(reply, Exception):
        raise reply
    return reply


@contextmanager
def _redis() -> Iterator[str]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise SystemExit("no redis-server on PATH")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory)
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    """Print the counts; 1 if one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", action="store_true", help="print every move")
    args = parser.parse_args()
    with _redis() as url:
        counts = count_moves(url)
    for name, moves in counts.items():
        print(f"{name}: {len(moves)} moves (limit {LIMITS[name]})")
        for before, after, function in moves if args.path else ():
            print(f"    {before or '(event loop)':32} -> {after}: {function}")
    return int(any(len(moves) > LIMITS[name] for name, moves in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
