"""Passwords and files that others on the machine must not see."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from redisai_py.serve.data_directory import password_of
from tests.runtime.serving import Serving, eventually, redis_processes
from tests.runtime.test_refusals import redis_server, refusal

Serve = Callable[..., Serving]


def _open_to_others(directory: Path) -> list[Path]:
    paths = [directory, *directory.rglob("*")]
    return [path for path in paths if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink()]


def test_all_files_are_for_the_owner_only(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    with serving.client() as client:
        client.set("k", "v")
        client.config_rewrite()
        client.bgrewriteaof()
        eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        client.save()
    assert (data_dir / "dump.rdb").exists()
    assert _open_to_others(data_dir) == []


def test_what_an_earlier_run_left_open_is_closed(serve: Serve, data_dir: Path) -> None:
    assert serve("--data-dir", data_dir).stop() == 0
    for path in [data_dir, *data_dir.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    serve("--data-dir", data_dir)
    assert _open_to_others(data_dir) == []


def test_a_password_in_the_url_is_not_to_be_seen(serve: Serve, tmp_path: Path) -> None:
    with redis_server(tmp_path / "r", "--requirepass", "s3cret/@x") as url:
        secret = url.replace("unix://", "unix://:s3cret%2F%40x@")
        serving = serve("--redis", secret)
        for process in [serving.supervisor, *serving.supervisor.children(recursive=True)]:
            assert "s3cret" not in " ".join(process.cmdline()), process
        assert "***@" in " ".join(serving.supervisor.cmdline())
        assert "s3cret" not in serving.stderr + "\n".join(serving.banner)
        with serving.client(password="s3cret/@x") as client:
            assert client.ping()
        assert serving.stop() == 0


def test_the_password_of_a_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret/@x\n")
    with redis_server(tmp_path / "r", "--requirepass", "s3cret/@x") as url:
        serving = serve("--redis", url, "--redis-password-file", file)
        assert "s3cret" not in " ".join(serving.supervisor.cmdline())
        file.write_text("wrong\n")
        assert "refuses the URL's credentials" in refusal(
            serve("--redis", url, "--redis-password-file", file, wait=False)
        )


def test_a_generated_password_is_asked_for_and_found_by_the_command_line(
    serve: Serve, data_dir: Path, tmp_path: Path
) -> None:
    serving = serve("--data-dir", data_dir, "--require-password")
    password = (data_dir / "password").read_text().strip()
    assert len(password) >= 32
    assert _open_to_others(data_dir) == []
    assert "anyone" not in "\n".join(serving.banner)
    assert str(data_dir / "password") in "\n".join(serving.banner)
    for process in [serving.supervisor, *serving.supervisor.children(recursive=True), *redis_processes(data_dir)]:
        assert password not in " ".join(process.cmdline())
    with serving.client() as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with serving.client(password=password) as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)

    def ping(**environment: str) -> int:
        command = [sys.executable, "-m", "redisai_py", "ping", "--url", f"redis://127.0.0.1:{serving.port}"]
        return subprocess.run(
            command, capture_output=True, timeout=30, cwd=tmp_path, env={**os.environ, **environment}
        ).returncode

    assert ping() == 0  # tmp_path / "data" is where `make run` keeps its data
    assert ping(REDISAI_PASSWORD_FILE=str(data_dir / "password")) == 0
    assert password_of(data_dir, f"127.0.0.1:{serving.port}") == password
    assert password_of(data_dir, "127.0.0.1:1") is None
    serving.process.kill()
    serving.wait()
    assert password_of(data_dir, f"127.0.0.1:{serving.port}") is None, "it is for that server alone"

    again = serve("--data-dir", data_dir, "--require-password")
    assert "adopted" in "\n".join(again.banner)
    with again.client(password=password) as client:
        assert client.exists("x")


def test_a_password_that_the_users_redis_conf_undoes(serve: Serve, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "redis.conf").write_text("user default on nopass ~* &* +@all\n")
    text = refusal(serve("--data-dir", data_dir, "--require-password", wait=False))
    assert "redis.conf" in text
    assert redis_processes(data_dir) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")
def test_root_is_warned_once(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    psutil.Process(serving.server().pid).kill()
    with serving.client() as client:
        assert client.ping()
    assert serving.stderr.count("running as root") == 1
