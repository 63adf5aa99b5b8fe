"""Where `redisai serve` listens, and who may connect there."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from redisai_py import AsyncClient, Client
from tests.runtime.serving import Serving
from tests.runtime.test_refusals import redis_server, refusal

Serve = Callable[..., Serving]


def test_all_clients_connect_over_the_unix_socket(serve: Serve, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    serving = serve("--data-dir", data_dir, "--unix-socket", path)
    assert f"unix://{path}" in "\n".join(serving.banner)
    with Client(unix_socket_path=str(path)) as client:
        client.tensorset("x", [1, 2], dtype="float")

    async def fetch() -> list[float]:
        async with AsyncClient.from_url(f"unix://{path}") as client:
            return list(await client.tensorget("x"))

    assert asyncio.run(fetch()) == [1, 2]
    command = [sys.executable, "-m", "redisai_py", "ping", "--url", f"unix://{path}"]
    assert "PONG" in subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert path.exists()
    assert serving.stop() == 0
    assert not path.exists()


def test_a_crash_of_the_server_leaves_the_socket_in_place(serve: Serve, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    serving = serve("--data-dir", data_dir, "--unix-socket", path)
    serving.server().kill()
    with redis.Redis(unix_socket_path=str(path), socket_timeout=20, retry=None) as client:
        assert client.ping()


def test_a_killed_serve_leaves_a_socket_that_the_next_one_replaces(
    serve: Serve, data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.sock"
    first = serve("--data-dir", data_dir, "--unix-socket", path)
    with redis_server(tmp_path / "r") as url:
        assert "r.sock is in use" in refusal(serve("--redis", url, "--unix-socket", path, wait=False))
    first.process.kill()
    first.wait()
    serve("--data-dir", data_dir, "--unix-socket", path)
    with redis.Redis(unix_socket_path=str(path), socket_timeout=20) as client:
        assert client.ping()


def test_only_a_unix_socket(serve: Serve, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    serving = serve("--data-dir", data_dir, "--host", "", "--unix-socket", path, wait=False)
    with pytest.raises(AssertionError, match="unix"):  # it has no port to find in the greeting
        serving.wait_ready()
    assert not serving.supervisor.net_connections("inet")
    with redis.Redis(unix_socket_path=str(path)) as client:
        assert client.ping()


def test_ipv6_is_served_by_default(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    try:
        socket.create_connection(("::1", serving.port), timeout=10).close()
    except OSError:
        assert "[::1]" not in "\n".join(serving.banner), "this machine has IPv6, or does it?"


def test_one_open_address_among_local_ones_is_refused(serve: Serve, data_dir: Path) -> None:
    text = refusal(serve("--data-dir", data_dir, "--host", "127.0.0.1", "--host", "::", wait=False))
    assert "[::]" in text
    assert "127.0.0.1" not in text
    assert "--no-protected-mode" in text


@pytest.mark.parametrize("rights", ["-ping", "-@all"])
def test_a_default_user_without_a_password_is_an_open_door(serve: Serve, tmp_path: Path, rights: str) -> None:
    with redis_server(tmp_path / "r", "--user", "default", "on", "nopass", "~*", "&*", "+@all", rights) as url:
        assert "refusing to listen" in refusal(serve("--redis", url, "--host", "0.0.0.0", wait=False))
    with redis_server(tmp_path / "r", "--user", "default", "off") as url:
        assert serve("--redis", url, "--host", "0.0.0.0").port
