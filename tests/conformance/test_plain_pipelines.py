"""Long pipelines of commands that are not AI, which go to Redis in rows, and their replies. As on bare Redis."""

from __future__ import annotations

import socket
import threading

import pytest
import redis

from redisai_py.resp.templates import encode_command
from tests.support import FrontDoor, RedisServer, exchange, raw_socket


@pytest.mark.parametrize("size", [999, 50_000, 10_000_000])
def test_long_pipelines(size: int, redis_server: RedisServer, front_door: FrontDoor, bare: redis.Redis) -> None:
    """What goes to Redis in rows, between what does not: modes, commands of ours, and a transaction."""
    row = [f"SET k{n} {n:*^{n % 300 + 5}}" for n in range(1500)] + [f"GET k{n}" for n in range(1500)]
    lines = [*row, "SELECT 3", *row[::3], "SELECT 0", "GET k7", "CLIENT REPLY SKIP", "GET k8", *row[1500:1600], "MULTI"]
    lines += [*row[1000:1100], "EXEC", *row[::5], "RPUSH l 1", "BLPOP l 1", *row[::7], "ECHO the-end"]
    data = b"".join(b"".join(encode_command([word.encode() for word in line.split()])) for line in lines)
    expected = exchange(redis_server.port, data, b"$7\r\nthe-end\r\n")
    bare.flushall()
    with raw_socket(front_door.port) as connection:
        for _ in range(2):  # the second time the connection to Redis is there
            received = b""
            sending = threading.Thread(target=_send_in_pieces, args=(connection, data, size))
            sending.start()
            while not received.endswith(b"$7\r\nthe-end\r\n"):
                received += connection.recv(1 << 20)
            sending.join()
            assert received == expected
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(100) == b"+OK\r\n"


def _send_in_pieces(connection: socket.socket, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        connection.sendall(data[at : at + size])


def test_resp3_booleans_are_replies(front_door: FrontDoor, bare: redis.Redis) -> None:
    """hiredis, unless told otherwise, gives False for `#f` and for a reply that is not complete."""
    ask = b'EVAL "redis.setresp(3) return false" 0\r\n'
    data = b"HELLO 3\r\n" + ask * 2 + b"AI.TENSORSET t FLOAT 1 VALUES 1\r\n" + ask + b"ECHO the-end\r\n"
    received = exchange(front_door.port, data, b"$7\r\nthe-end\r\n")
    assert received.endswith(b"#f\r\n#f\r\n+OK\r\n#f\r\n$7\r\nthe-end\r\n")
