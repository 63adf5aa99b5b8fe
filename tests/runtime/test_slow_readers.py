"""What a client that reads slowly leaves behind in a running server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import redis

from tests.runtime.serving import Serving

Serve = Callable[..., Serving]

_PIECE = 64 * 1024
_SIZES = [4_000_000 + 7_777 * number for number in range(20)]
"""With some, the last piece from Redis finds the client's socket full. Buffers of unix sockets do not grow."""


def test_the_connection_to_redis_serves_others_afterwards(serve: Serve, data_dir: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "r.sock")
    serve("--data-dir", data_dir, "--unix-socket", path)
    with redis.Redis(unix_socket_path=path, socket_timeout=20, retry=None) as other:
        for size in _SIZES:
            assert other.execute_command("AI.TENSORSET", "large", "UINT8", size, "BLOB", bytes(size)) == b"OK"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.settimeout(20)
                client.sendall(b"AI.TENSORGET large BLOB\r\n")
                left = len(b"$%d\r\n\r\n" % size) + size
                while left:
                    left -= len(client.recv(_PIECE))
                    time.sleep(0.001)
