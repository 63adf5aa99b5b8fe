"""SHUTDOWN on the embedded default, as its users have it: what they see as Redis ends, in order, with its data.

A crash of the private Redis is no such order; `tests/runtime/test_crashes.py` has it come back.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.exceptions import NoPermissionError

from tests.runtime.serving import Serving, eventually, redis_processes, wait_until_gone

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not on PATH")

Serve = Callable[..., Serving]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Serve]:
    """Start `redisai serve` on the data directory, ready; what is left of it at the end is killed."""
    running: list[Serving] = []

    def start(*arguments: str) -> Serving:
        running.append(Serving("--data-dir", data_dir, *arguments))
        running[-1].wait_ready()
        return running[-1]

    yield start
    for serving in running:
        serving.close()
    for process in redis_processes(data_dir):
        process.kill()


def _store(serving: Serving) -> None:
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "t", "INT8", 2, "VALUES", 1, 2)


def _assert_stored(serving: Serving) -> None:
    with serving.client() as client:
        assert client.execute_command("AI.TENSORGET", "t", "VALUES") == [1, 2]


def _assert_ended_well(serving: Serving, data_dir: Path) -> None:
    assert serving.wait() == 0
    assert redis_processes(data_dir) == []
    assert "told to shut down" in serving.stderr
    assert "starting it again" not in serving.stderr
    assert "Traceback" not in serving.stderr


@pytest.mark.parametrize("how", [{}, {"save": True}, {"nosave": True}])
def test_redis_pys_shutdown_ends_everything_and_the_data_stays(
    how: dict[str, bool], serve: Serve, data_dir: Path
) -> None:
    first = serve()
    _store(first)
    with first.client() as client:
        client.shutdown(**how)  # raises unless the connection ends without a reply
    _assert_ended_well(first, data_dir)
    _assert_stored(serve())


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="no redis-cli on PATH")
def test_redis_clis_shutdown_says_nothing_and_succeeds(serve: Serve, data_dir: Path) -> None:
    serving = serve()
    done = subprocess.run(["redis-cli", "-p", str(serving.port), "shutdown"], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    _assert_ended_well(serving, data_dir)


def test_a_shutdown_that_redis_refuses_changes_nothing(serve: Serve) -> None:
    serving = serve()
    with serving.client() as client:
        client.acl_setuser("guest", enabled=True, nopass=True, commands=["+@all", "-shutdown"], keys=["*"])
        with serving.client(username="guest", password="any") as guest, pytest.raises(NoPermissionError):
            guest.execute_command("SHUTDOWN")
        with pytest.raises(redis.ResponseError, match="syntax error"):
            client.execute_command("SHUTDOWN", "PERHAPS")
        assert client.ping()
    assert serving.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_an_adopted_redis_is_told_apart_as_well(number: signal.Signals, serve: Serve, data_dir: Path) -> None:
    first = serve()
    _store(first)
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve()
    assert "adopted" in "\n".join(second.banner)
    (adopted,) = redis_processes(data_dir)
    adopted.send_signal(number)
    wait_until_gone(adopted)
    if number == signal.SIGTERM:
        _assert_ended_well(second, data_dir)
        _assert_stored(serve())
    else:
        _assert_comes_back(second, data_dir, adopted)


def _assert_comes_back(serving: Serving, data_dir: Path, ended: psutil.Process) -> None:
    eventually(lambda: redis_processes(data_dir) not in ([], [ended]))
    with serving.client() as client:
        eventually(client.ping)
    _assert_stored(serving)
    assert serving.stop() == 0
