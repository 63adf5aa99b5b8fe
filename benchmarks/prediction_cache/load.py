"""Clients that each send their next request when the last is answered, on one thread."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Outcome", "drive"]

Frame = Sequence[bytes]


@dataclass(slots=True)
class _Client:
    sock: socket.socket
    unsent: list[memoryview] = field(default_factory=list)
    missing: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """per_s: requests per second.   p50_ms, p99_ms: latencies of all.   n: requests."""

    per_s: float
    p50_ms: float
    p99_ms: float
    n: int


def drive(port: int, clients: int, seconds: float, next_frame: Callable[[], Frame | None], reply_size: int) -> Outcome:
    """Put load on a server for so long, or until `next_frame` gives None. Every reply has `reply_size` bytes."""
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    running = [_Client(socket.create_connection(("127.0.0.1", port))) for _ in range(clients)]
    began = time.perf_counter()
    until = began + seconds
    active = 0
    try:
        for client in running:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sock.setblocking(False)
            selector.register(client.sock, selectors.EVENT_READ, client)
            active += _begin(selector, client, next_frame(), reply_size)
        while active:
            for key, events in selector.select(10):
                client = key.data
                if events & selectors.EVENT_WRITE:
                    _send(selector, client)
                if events & selectors.EVENT_READ and _receive(client):
                    now = time.perf_counter()
                    latencies.append(now - client.since)
                    frame = next_frame() if now < until else None
                    active -= not _begin(selector, client, frame, reply_size)
        elapsed = time.perf_counter() - began
    finally:
        for client in running:
            client.sock.close()
        selector.close()
    p50, p99 = np.percentile(np.array(latencies) * 1e3, [50, 99]).tolist()
    return Outcome(len(latencies) / elapsed, p50, p99, len(latencies))


def _begin(selector: selectors.BaseSelector, client: _Client, frame: Frame | None, reply_size: int) -> bool:
    if frame is None:
        return False
    client.since = time.perf_counter()
    client.missing = reply_size
    client.unsent = [memoryview(part) for part in frame]
    _send(selector, client)
    return True


def _send(selector: selectors.BaseSelector, client: _Client) -> None:
    unsent = client.unsent
    while unsent:
        try:
            count = client.sock.sendmsg(unsent)
        except BlockingIOError:
            break
        while unsent and count >= len(unsent[0]):
            count -= len(unsent.pop(0))
        if unsent:
            unsent[0] = unsent[0][count:]
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
    if selector.get_key(client.sock).events != wanted:
        selector.modify(client.sock, wanted, client)


def _receive(client: _Client) -> bool:
    try:
        data = client.sock.recv(65536)
    except BlockingIOError:
        return False
    if not data or data.startswith(b"-"):
        raise SystemExit(f"the server answered {data[:200]!r}")
    client.missing -= len(data)
    if client.missing < 0:
        raise SystemExit("a reply is longer than the first was")
    return client.missing == 0
