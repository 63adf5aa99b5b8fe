"""Large strings to and from Redis, without the copies that redis-py makes.

With hiredis, redis-py copies what it sends twice and what it receives three times; with a Redis on the same machine
that is a third of the time. Here buffers go to the socket as they are, and values are received into memory that is
reused. Connections, retries and errors are redis-py's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import redis

from redisai_py.artifacts.digest import Buffer
from redisai_py.resp.templates import encode_command

__all__ = ["MAX_STRING", "ReceiveBuffer", "lengths", "set_strings"]

MAX_STRING = 64 * 1024 * 1024
"""Maximum size of a string of a blob, in bytes."""
_TOGETHER = 500
_AHEAD = 2 * 1024 * 1024
_SMALL = 16 * 1024  # smaller pieces are joined, because each buffer costs a system call


def lengths(link: redis.Redis, keys: Sequence[Any]) -> list[int]:
    """Lengths of strings, in order; 0 for one that does not exist."""
    found: list[int] = []
    for start in range(0, len(keys), _TOGETHER):
        with link.pipeline(transaction=False) as pipeline:
            for key in keys[start : start + _TOGETHER]:
                pipeline.strlen(key)
            found += pipeline.execute()
    return found


def set_strings(link: redis.Redis, items: Sequence[tuple[str, Buffer]]) -> None:
    """SET all keys in one round trip. Raises: redis.RedisError: the first failure."""
    if link.connection is not None:  # a client bound to one connection locks it
        with link.pipeline(transaction=False) as pipeline:
            for key, data in items:
                pipeline.set(key, bytes(data))
            pipeline.execute()
        return
    pool = link.connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.retry.call_with_retry(lambda: _set(connection, items), lambda error: connection.disconnect())
    finally:
        pool.release(connection)


def _set(connection: Any, items: Sequence[tuple[str, Buffer]]) -> None:
    encode = connection.encoder.encode
    commands = (encode_command([b"SET", encode(key), data]) for key, data in items)
    connection.send_packed_command(list(_joined(segment for command in commands for segment in command)))
    failed: Exception | None = None
    for _ in items:
        try:
            connection.read_response()
        except redis.ResponseError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _joined(segments: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes, with small segments joined."""
    small: list[Buffer] = []
    for segment in segments:
        if len(segment) < _SMALL and sum(map(len, small)) < _SMALL:
            small.append(segment)
            continue
        if small:
            yield b"".join(small)
        small = []
        yield segment
    if small:
        yield b"".join(small)


class ReceiveBuffer:
    """A reusable buffer for one value at a time; it stays in the processor's cache."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def read(self, link: redis.Redis, keys: Sequence[str], sizes: Sequence[int]) -> Iterator[Any]:
        """The values of keys, in order: memoryviews of the buffer, or bytes; None for a missing key.

        Each value overwrites the previous one. Redis sends the next value while the caller uses the current one.

        Args:   sizes: expected sizes in bytes.
        Raises: redis.RedisError.
        """
        come = 0
        if link.connection is None and max(sizes, default=0) <= MAX_STRING:
            for value in self._expected(link.connection_pool, keys, sizes):
                yield value
                come += 1
        if come < len(keys):  # redis-py handles any other reply, and retries
            rest: Any = link.mget(keys[come:])
            yield from rest

    def _expected(self, pool: Any, keys: Sequence[str], sizes: Sequence[int]) -> Iterator[memoryview]:
        """The values up to the first unexpected reply; then the connection is closed."""
        connection = pool.get_connection()
        whole = not hasattr(connection, "_sock")  # redis-py has no public name for it; caching connections hide it
        try:
            if whole:
                return
            # Not one MGET: Redis would build one reply of all values, and it would arrive only after all were copied.
            asked = 0
            for place, size in enumerate(sizes):
                last = _ahead(sizes, place)
                if last > asked:
                    connection.send_packed_command(connection.pack_commands([("GET", key) for key in keys[asked:last]]))
                    asked = last
                sock, view = connection._sock, self._view(size)
                if not (_matches(sock, b"$%d\r\n" % size) and _fill(sock, view) and _matches(sock, b"\r\n")):
                    return
                whole = place + 1 == len(sizes)
                yield view
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            return
        finally:
            if not whole:
                connection.disconnect()
            pool.release(connection)

    def _view(self, size: int) -> memoryview:
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        memory: Any = self._memory
        return memoryview(memory)[:size]


def _ahead(sizes: Sequence[int], place: int) -> int:
    """How many values to request while the one at `place` is awaited: it and the next, more if they are small."""
    last, size = min(place + 2, len(sizes)), sum(sizes[place : place + 2])
    while last < len(sizes) and size + sizes[last] <= _AHEAD:
        size += sizes[last]
        last += 1
    return last


def _matches(sock: Any, expected: bytes) -> bool:
    """Whether the next bytes are `expected`. Never waits for more bytes than any reply has."""
    found = bytearray()
    while len(found) < len(expected):
        received = sock.recv(len(expected) - len(found))
        found += received
        if not received or not expected.startswith(found):
            return False
    return True


def _fill(sock: Any, view: memoryview) -> bool:
    flags = socket.MSG_WAITALL if type(sock) is socket.socket else 0  # TLS sockets accept no flags
    while len(view):
        count = sock.recv_into(view, len(view), flags)
        if not count:
            return False
        view = view[count:]
    return True
