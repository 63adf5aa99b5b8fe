"""Load on a server, bounded in time and count, and what came of it.

- `redis_benchmark`: the C program, closed loop, one command again and again. It costs least beside the server.
- `closed_loop`: our own, for cycles of several commands; each client sends its next request when the last is answered.
- `open_loop`: requests start at times drawn beforehand, whether or not earlier ones are answered, and their latency
  counts from those times: a server that stalls cannot slow the load down and so hide the stall.

Our own generators encode nothing while they measure and know each reply's length from a first, checked one.
"""

from __future__ import annotations

import csv
import io
import random
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.servers import Target
from harness.wire import Client, Word, http_call

__all__ = ["CpuClock", "Request", "Sample", "closed_loop", "latency_sample", "open_loop", "redis_benchmark"]

_CLIENT = b"__client__"
_MOST_REQUESTS = 2_000_000
_MOST_PER_S = 1e7  # redis-benchmark counts in milliseconds, and divides by none of them as well
_LIMIT_FACTOR = 20  # a run may take this many times the seconds it was made for, then it is given up


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. per_s: requests per second.   p50_ms ... max_ms: latencies in milliseconds.   n: requests.

    cpu_us: CPU time of the server and the processes that it started, per request, in microseconds; redis_cpu_us: of the
    Redis behind it. What else the machine does changes rates and latencies much more than these.
    cores: how many cores both kept busy.
    """

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    n: int
    cpu_us: float = 0.0
    redis_cpu_us: float = 0.0
    cores: float = 0.0


class CpuClock:
    """CPU time of a server and its Redis from here on."""

    def __init__(self, target: Target) -> None:
        self._servers = [target, *([target.upstream] if target.upstream else [])]
        self._begun = [server.cpu_seconds() for server in self._servers]

    def add_to(self, sample: Sample) -> Sample:
        spent = [
            (server.cpu_seconds() - begun) / sample.n * 1e6
            for server, begun in zip(self._servers, self._begun, strict=True)
        ]
        cores = sum(spent) * sample.per_s / 1e6
        return replace(sample, cpu_us=spent[0], redis_cpu_us=spent[1] if len(spent) > 1 else 0.0, cores=cores)


@dataclass(frozen=True, slots=True)
class Request:
    """Bytes to send at once and how many replies they have; `__client__` in them becomes each client's own number.

    http: they are one request of HTTP, not commands of Redis.
    """

    data: bytes
    replies: int = 1
    http: bool = False

    def of_client(self, number: int) -> bytes:
        """What that client sends."""
        return self.data.replace(_CLIENT, b"%010d" % number)  # of the same length, for the words' lengths are encoded

    def reply_length(self, port: int) -> int:
        """How many bytes come back, which must be no error."""
        data = self.of_client(0)
        if self.http:
            return http_call(port, data)[1]
        with Client(port) as client:
            return client.raw_reply_length(data, self.replies)


def latency_sample(latencies_s: Sequence[float], elapsed_s: float) -> Sample:
    """A sample from the latencies of single requests."""
    p50, p95, p99, most = np.percentile(np.array(latencies_s) * 1e3, [50, 95, 99, 100]).tolist()
    return Sample(len(latencies_s) / elapsed_s, p50, p95, p99, most, len(latencies_s))


def redis_benchmark(
    target: Target, words: Sequence[Word], *, clients: int, seconds: float, pipeline: int = 1, keyspace: int = 0
) -> Sample:
    """Measure one command for about `seconds`; how many requests that is comes from shorter runs before.

    Args: words: the command; no word may contain a NUL byte.
          keyspace: if not 0, `__rand_int__` in a word becomes a random number of 12 digits below it.
    """
    with Client(target.port) as client:
        client.call(*[_replace(word) for word in words])  # an error is told here: redis-benchmark counts it as a reply
    requests = clients * pipeline * 4
    while True:
        clock = CpuClock(target)
        found = clock.add_to(_redis_benchmark(target.port, words, clients, requests, pipeline, keyspace, seconds))
        took = requests / min(found.per_s, _MOST_PER_S)
        if took > seconds / 2 or requests >= _MOST_REQUESTS:
            return found
        # The first, short runs say little about the rate: the next one is at most 10 times as long.
        requests = min(_MOST_REQUESTS, int(requests * min(10.0, max(1.1, seconds / took))))


def _replace(word: Word) -> Word:
    return word.replace("__rand_int__", "0" * 12) if isinstance(word, str) else word


def _redis_benchmark(
    port: int, words: Sequence[Word], clients: int, requests: int, pipeline: int, keyspace: int, seconds: float
) -> Sample:
    command: list[str | bytes] = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(clients)]
    command += ["-n", str(requests), "-P", str(pipeline), "--csv", *(["-r", str(keyspace)] if keyspace else [])]
    command += [word if isinstance(word, bytes) else str(word) for word in words]
    limit = _LIMIT_FACTOR * max(seconds, 1)
    done = subprocess.run(command, capture_output=True, timeout=limit, check=True)
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    latencies = [float(row[f"{name}_latency_ms"]) for name in ("p50", "p95", "p99", "max")]
    return Sample(float(row["rps"]), *latencies, requests)


class _Connections:
    """Non-blocking sockets that wait for replies of known length."""

    def __init__(self, port: int, clients: int, requests: Sequence[Request]) -> None:
        self.lengths = [request.reply_length(port) for request in requests]
        self._error = b"HTTP/1.1 5" if requests[0].http else b"-"
        self.sockets: dict[int, socket.socket] = {}
        self._data: dict[int, list[bytes]] = {}
        for number in range(clients):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[connection.fileno()] = connection
            self._data[connection.fileno()] = [request.of_client(number) for request in requests]
        self.missing = dict.fromkeys(self.sockets, 0)

    def send(self, fd: int, step: int) -> None:
        self.missing[fd] = self.lengths[step]
        self.sockets[fd].sendall(self._data[fd][step])

    def received(self, fd: int) -> bool:
        """Take what has come; whether the reply is whole."""
        data = self.sockets[fd].recv(1 << 18)
        missing = self.missing[fd] = self.missing[fd] - len(data)
        if missing < 0 or data.startswith(self._error) or not data:
            raise RuntimeError(f"an unexpected reply: {data[:200]!r}")
        return missing == 0

    def close(self) -> None:
        for connection in self.sockets.values():
            connection.close()


def closed_loop(target: Target, cycle: Sequence[Request], *, clients: int, seconds: float) -> Sample:
    """Measure cycles of requests, each client one at a time; `per_s` and the latencies are those of whole cycles."""
    connections = _Connections(target.port, clients, cycle)
    steps = len(cycle)
    at = dict.fromkeys(connections.sockets, 0)
    poll = select.epoll()
    latencies: list[float] = []
    now = time.perf_counter
    try:
        begun = dict.fromkeys(at, 0.0)
        for fd in at:
            poll.register(fd, select.EPOLLIN)
        clock = CpuClock(target)
        started = now()
        until = started + seconds
        for fd in at:
            begun[fd] = now()
            connections.send(fd, 0)
        busy = len(at)
        while busy:
            for fd, _ in _poll(poll, until + 10 * seconds + 10):
                if not connections.received(fd):
                    continue
                step = at[fd] = (at[fd] + 1) % steps
                if step == 0:
                    ended = now()
                    latencies.append(ended - begun[fd])
                    begun[fd] = ended
                    if ended >= until:
                        busy -= 1
                        continue
                connections.send(fd, step)
        return clock.add_to(latency_sample(latencies, now() - started))
    finally:
        poll.close()
        connections.close()


def _poll(poll: select.epoll, give_up: float) -> list[tuple[int, int]]:
    events = poll.poll(1.0)
    if not events and time.perf_counter() > give_up:
        raise TimeoutError("the server does not answer")
    return events


def open_loop(target: Target, request: Request, *, clients: int, per_s: float, seconds: float) -> Sample:
    """Measure requests that start as a Poisson process of `per_s`, from a fixed seed, on whichever client is free.

    A request that finds no client free waits for one; that time counts. `per_s` of the sample is what was answered.
    """
    connections = _Connections(target.port, clients, [request])
    rng = random.Random(1)
    free = deque(connections.sockets)
    waiting: deque[float] = deque()
    due: dict[int, float] = {}
    latencies: list[float] = []
    clock = CpuClock(target)
    started = time.perf_counter()
    arrival = started + rng.expovariate(per_s)
    until = started + seconds
    try:
        while arrival < until or waiting or due:
            now = time.perf_counter()
            if now > until + 10 * seconds + 10:
                raise TimeoutError("the server does not keep up")
            while arrival < until and arrival <= now:
                waiting.append(arrival)
                arrival += rng.expovariate(per_s)
            while waiting and free:
                fd = free.popleft()
                due[fd] = waiting.popleft()
                connections.send(fd, 0)
            # select, not epoll: its time limit is finer than a millisecond.
            limit = max(0.0, arrival - time.perf_counter()) if arrival < until else 1.0
            for fd in select.select(list(due), (), (), limit)[0]:
                if connections.received(fd):
                    latencies.append(time.perf_counter() - due.pop(fd))
                    free.append(fd)
        return clock.add_to(latency_sample(latencies, time.perf_counter() - started))
    finally:
        connections.close()
