"""What `redisai serve` refuses to do: one line that says why, exit status 1, and nothing left running."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.runtime.serving import Serving, redis_processes

Serve = Callable[..., Serving]


def refusal(serving: Serving) -> str:
    """The one line of an unsuccessful start."""
    assert serving.wait() == 1
    lines = [line for line in serving.stderr.splitlines() if line.startswith("redisai serve: ")]
    assert len(lines) == 1, serving.stderr
    assert "Traceback" not in serving.stderr
    return lines[0]


@contextlib.contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[str]:
    """A stock redis-server on a unix socket, and its URL."""
    directory.mkdir(exist_ok=True)
    path = directory / "other.sock"
    command = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(directory),
        "--save",
        "",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while "eady to accept connections" not in (line := process.stdout.readline()):
            assert line, "redis-server does not start"
        yield f"unix://{path}"
    finally:
        process.kill()
        process.communicate()


def test_a_directory_in_use(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        client.set("k", "v")
        text = refusal(serve("--data-dir", data_dir, wait=False))
        assert str(data_dir) in text
        assert f"process id {first.process.pid}" in text
        assert f"127.0.0.1:{first.port}" in text
        assert client.get("k") == b"v"
    assert len(redis_processes(data_dir)) == 1


def test_a_port_in_use(serve: Serve, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal(serve("--data-dir", data_dir, "--port", port, wait=False))
    assert f"port {port} of 127.0.0.1 is in use" in text
    assert redis_processes(data_dir) == []


def test_an_address_that_is_not_ours(serve: Serve, data_dir: Path) -> None:
    assert "192.0.2.1" in refusal(serve("--data-dir", data_dir, "--host", "192.0.2.1", wait=False))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://127.0.0.1:PORT", ["cannot reach Redis", "127.0.0.1:PORT"]),
        ("redis://me:secret@127.0.0.1:PORT", ["redis://me:***@127.0.0.1:PORT"]),
        ("unix:///nowhere/redis.sock", ["cannot reach Redis", "/nowhere/redis.sock"]),
        ("http://127.0.0.1:PORT", ["redis://"]),
        ("redis://127.0.0.1:PORT/2", ["SELECT"]),
    ],
)
def test_a_redis_that_is_not_there(serve: Serve, url: str, words: list[str]) -> None:
    with socket.socket() as deaf:  # has the port, and does not listen
        deaf.bind(("127.0.0.1", 0))
        port = str(deaf.getsockname()[1])
        text = refusal(serve("--redis", url.replace("PORT", port), wait=False))
    assert all(word.replace("PORT", port) in text for word in words)
    assert "secret" not in text


def test_something_that_is_not_redis(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        text = refusal(serve("--redis", f"redis://127.0.0.1:{other.getsockname()[1]}", wait=False))
        thread.join()
    assert "does not speak the Redis protocol" in text


def test_a_cluster(serve: Serve, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    with redis_server(tmp_path / "cluster", "--cluster-enabled", "yes", "--cluster-port", port) as url:
        assert "cluster" in refusal(serve("--redis", url, wait=False))


def test_credentials_that_redis_refuses(serve: Serve, tmp_path: Path) -> None:
    with redis_server(tmp_path / "r", "--requirepass", "right") as url:
        path = url.removeprefix("unix://")
        text = refusal(serve("--redis", f"unix://:wrong@{path}", wait=False))
        assert "WRONGPASS" in text
        assert "wrong@" not in text


def test_a_redis_server_that_is_not_there(serve: Serve, data_dir: Path) -> None:
    assert "no executable none-such" in refusal(
        serve("--data-dir", data_dir, "--redis-server", "none-such", wait=False)
    )


def test_a_redis_server_that_does_not_start(serve: Serve, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "redis.conf").write_text("no-such-setting yes\n")
    text = refusal(serve("--data-dir", data_dir, wait=False))
    assert "no-such-setting" in text
    assert str(data_dir / "redis.log") in text


def test_a_directory_that_cannot_be_made(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "data directory" in refusal(serve("--data-dir", tmp_path / "file" / "data", wait=False))


def test_an_open_redis_behind_an_open_address(serve: Serve, data_dir: Path) -> None:
    text = refusal(serve("--data-dir", data_dir, "--host", "0.0.0.0", wait=False))
    assert "--no-protected-mode" in text
    assert "requirepass" in text
    assert redis_processes(data_dir) == []

    told = serve("--data-dir", data_dir, "--host", "0.0.0.0", "--no-protected-mode")
    assert "anyone" in "\n".join(told.banner)
    assert told.stop() == 0


def test_a_password_opens_the_address_and_does_not_hinder_adoption(serve: Serve, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "redis.conf").write_text("requirepass word\n")
    first = serve("--data-dir", data_dir, "--host", "0.0.0.0")
    with first.client(password="word") as client:
        client.set("k", "v")
    with first.client() as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("k")
    first.process.kill()
    first.wait()
    second = serve("--data-dir", data_dir, "--host", "0.0.0.0")
    assert "adopted" in "\n".join(second.banner)
    with second.client(password="word") as client:
        assert client.get("k") == b"v"
    assert second.stop() == 0
    assert redis_processes(data_dir) == []


def test_a_given_redis_is_used_and_left_running(serve: Serve, tmp_path: Path) -> None:
    with redis_server(tmp_path / "r") as url:
        serving = serve("--redis", url, "--data-dir", tmp_path / "unused")
        assert url in "\n".join(serving.banner)
        with serving.client() as client:
            client.set("k", "v")
        assert serving.stop() == 0
        assert not (tmp_path / "unused").exists()
        with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
            assert client.get("k") == b"v"
