from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from redisai_py.serve.data_directory import DataDirectory
from redisai_py.serve.preflight import StartError


def test_it_is_made_for_its_owner_only_with_a_file_for_the_users_settings(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "b")
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert "requirepass" in directory.redis_conf.read_text()


def test_the_users_settings_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "redis.conf").write_text("mine\n")
    assert DataDirectory(tmp_path).redis_conf.read_text() == "mine\n"


def test_the_second_holder_is_told_of_the_first(tmp_path: Path) -> None:
    # Locks belong to open files, so two objects in one process are as good as two processes.
    with DataDirectory(tmp_path).held() as say:
        say(["127.0.0.1:1234", "[::1]:1234"])
        with (
            pytest.raises(StartError, match=rf"process id {os.getpid()} at 127\.0\.0\.1:1234"),
            DataDirectory(tmp_path).held(),
        ):
            pass
    with DataDirectory(tmp_path).held():
        pass


def test_the_lock_of_redis_lives_as_long_as_a_process_that_inherited_it(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert not directory.redis_lives()
    lock = directory.lock_redis()
    assert lock is not None
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert directory.redis_lives()
    assert directory.lock_redis() is None
    heir.communicate(b"\n")
    assert not directory.redis_lives()


def test_what_is_recorded_is_found_again(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert directory.recorded() == {}
    directory.record({"socket": "/tmp/s"})
    assert DataDirectory(tmp_path).recorded() == {"socket": "/tmp/s"}
    for damaged in ("", "[1]", "{"):
        (tmp_path / "redis.json").write_text(damaged)
        assert directory.recorded() == {}


def test_a_short_path_for_the_socket_must_be_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DataDirectory(tmp_path / ("d" * 100))
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        path = Path(directory.new_socket_path())
        assert path.parent.parent == Path(runtime)
        assert path == Path(directory.new_socket_path())
        path.parent.chmod(0o777)
        with pytest.raises(StartError, match="must belong to this user alone"):
            directory.new_socket_path()


def test_a_runtime_directory_with_a_long_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("r" * 100)))
    path = Path(DataDirectory(tmp_path / ("d" * 100)).new_socket_path())
    assert len(bytes(path)) < 108  # sockaddr_un
    assert path.parent.is_dir()
    path.parent.rmdir()


@pytest.mark.parametrize("content", ["", "x", "-1", "999999999"])
def test_a_process_id_on_file_that_is_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "redis.pid").write_text(content)
    assert DataDirectory(tmp_path).pid_on_file() is None


def test_a_process_id_on_file_counts_only_for_who_works_here(tmp_path: Path) -> None:
    (tmp_path / "redis.pid").write_text(str(os.getpid()))
    directory = DataDirectory(tmp_path)
    assert directory.pid_on_file() is None
    if os.path.exists("/proc/self/cwd"):
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path)
        (tmp_path / "redis.pid").write_text(f"{worker.pid}\n")
        assert directory.pid_on_file() == worker.pid
        worker.communicate(b"\n")
