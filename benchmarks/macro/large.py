"""Large tensors: how fast they move, what they do to others, and what memory stays."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness.load import CpuClock, Request, Sample, latency_sample, open_loop
from harness.report import Pace, interleave, row
from harness.servers import Servers, Target
from harness.wire import Client, encode

from macro.tensor_io import DATA, FLOATS

__all__ = ["large_neighbour", "large_tensors"]

_SIZE, _SIZE_SMOKE = 64 * 1024 * 1024, 1024 * 1024
_MOVES = 3  # per measurement
_PROBES_PER_S = 500.0


def _commands(size: int) -> dict[str, dict[str, tuple[bytes, bytes]]]:
    """side -> {set: (head, tail) around the value, get: (command, b"")}."""
    words = (b"AI.TENSORSET", b"large", b"FLOAT", b"%d" % (size // 4), b"BLOB")
    head = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return {
        "redis": {
            "set": (b"*3\r\n$3\r\nSET\r\n$11\r\nlarge:plain\r\n$%d\r\n" % size, b"\r\n"),
            "get": (encode("GET", "large:plain"), b""),
        },
        "redisai": {
            "set": (b"*%d\r\n%b$%d\r\n" % (len(words) + 1, head, size), b"\r\n"),
            "get": (encode("AI.TENSORGET", "large", "BLOB"), b""),
        },
    }


def _exchange(connection: socket.socket, parts: tuple[bytes, bytes, bytes], expected: int, into: bytearray) -> None:
    for part in parts:
        if part:
            connection.sendall(part)
    view = memoryview(into)
    received = 0
    while received < expected:
        count = connection.recv_into(view[received:])
        if not count:
            raise ConnectionError("the server closed the connection")
        if not received and view[:1] == b"-":
            raise RuntimeError(bytes(view[: min(count, 200)]).decode("latin-1"))
        received += count


class _Mover:
    """One client that sets or gets one large value; its buffers are made once."""

    def __init__(self, target: Target, side: str, size: int) -> None:
        self.target = target
        self._commands = _commands(size)["redis" if side == "redis" else "redisai"]
        self._data = b"?" * size
        self._reply = bytearray(size + 32)
        self._get_length = len(b"$%d\r\n" % size) + size + 2

    def move(self, connection: socket.socket, direction: str) -> None:
        """One set or get."""
        head, tail = self._commands[direction]
        if direction == "set":
            _exchange(connection, (head, self._data, tail), len(b"+OK\r\n"), self._reply)
        else:
            _exchange(connection, (head, b"", tail), self._get_length, self._reply)

    def measure(self, direction: str) -> Sample:
        """A few of them, one after the other."""
        with Client(self.target.port) as client:
            self.move(client.socket, "set")
            self.move(client.socket, direction)
            clock = CpuClock(self.target)
            started = time.perf_counter()
            latencies = []
            for _ in range(_MOVES):
                begun = time.perf_counter()
                self.move(client.socket, direction)
                latencies.append(time.perf_counter() - begun)
            return clock.add_to(latency_sample(latencies, time.perf_counter() - started))


def large_tensors(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """Set and get of 64 MB, one client, nothing kept between; resident memory before, after, and after a delete."""
    size = _SIZE_SMOKE if pace.smoke else _SIZE
    targets = {"redis": servers.redis, **servers.sides()}
    before = {side: target.resident_bytes() for side, target in targets.items()}
    movers = {side: _Mover(target, side, size) for side, target in targets.items()}
    for direction in ("set", "get"):
        sides = interleave({side: partial(mover.measure, direction) for side, mover in movers.items()}, pace)
        memory = {
            side: {"before_mb": before[side] >> 20, "after_mb": target.resident_bytes() >> 20}
            for side, target in targets.items()
        }
        facts = {"clients": 1, "pipeline": 1, "value_bytes": size, "resident": memory}
        yield row(f"large.{direction}", sides, "redisai", "redis", **facts)
    with Client(servers.redis.port) as client:
        client.call("DEL", "large", "large:plain")


def large_neighbour(servers: Servers, pace: Pace) -> Iterator[dict[str, Any]]:
    """A small get at a steady rate while another client sets and gets 64 MB without pause."""
    size = _SIZE_SMOKE if pace.smoke else _SIZE
    with Client(servers.redisai().port) as client:
        client.call("AI.TENSORSET", "tensor:small", "FLOAT", FLOATS, "BLOB", DATA)
        client.call("SET", "plain:small", DATA)
    small = {
        "redis": Request(encode("GET", "plain:small")),
        "redisai": Request(encode("AI.TENSORGET", "tensor:small", "BLOB")),
    }
    targets = {"redis": servers.redis, **servers.sides()}
    measures: dict[str, Callable[[], Sample]] = {}
    for side, target in targets.items():
        request = small["redis" if side == "redis" else "redisai"]
        measures[side] = partial(_beside_large, _Mover(target, side, size), request, pace)
    facts = {"clients": 4, "pipeline": 1, "value_bytes": len(DATA), "neighbour_bytes": size}
    sides = interleave(measures, pace)
    yield row("large-neighbour.get", sides, "redisai", "redis", figure="p99_ms", **facts)
    with Client(servers.redis.port) as client:
        client.call("DEL", "large", "large:plain")


def _beside_large(mover: _Mover, request: Request, pace: Pace) -> Sample:
    stop = threading.Event()
    with Client(mover.target.port) as client:
        thread = threading.Thread(target=_move_until, args=(mover, client.socket, stop))
        thread.start()
        try:
            seconds = max(0.05, 3 * pace.seconds)
            return open_loop(mover.target, request, clients=4, per_s=_PROBES_PER_S, seconds=seconds)
        finally:
            stop.set()
            thread.join()


def _move_until(mover: _Mover, connection: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        mover.move(connection, "set")
        mover.move(connection, "get")
