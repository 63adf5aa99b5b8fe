"""The chat in the terminal, as a program: two on one directory, and what it says when it cannot begin."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.chatbot.training import Trained, train
from tests.examples.test_chatbot import Local, store
from tests.runtime.serving import Serving
from tests.support import LOCALHOST, RedisServer, free_port, redis_binaries

ROOT = Path(__file__).resolve().parents[2]


def chat(*arguments: object, say: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.chatbot", *map(str, arguments)]
    return subprocess.run(command, input=say, capture_output=True, text=True, timeout=50, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    return train(steps=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hardly_trained: Trained) -> Iterator[Serving]:
    serving = Serving("--data-dir", tmp_path_factory.mktemp("data"))
    try:
        serving.wait_ready()
        store(serving.port, hardly_trained)
        yield serving
        serving.stop()
    finally:
        serving.close()


def replies(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return re.findall(r"Shop: (.*)", " ".join(done.stdout.split()).replace("You:", "\n"))


def test_a_server_that_runs_on_the_directory_is_used_and_goes_on(server: Serving, hardly_trained: Trained) -> None:
    """A second chat finds that of the first, and one that was killed leaves its server behind."""
    local, data_dir = Local(hardly_trained), server.arguments[-1]
    assert (
        replies(chat("--data-dir", data_dir, say="my name is Ada\n"))[0].split()
        == local.reply("my name is Ada").split()
    )
    again = chat("--data-dir", data_dir, say="what is my name?\n/new\n")
    assert replies(again)[0].split() == local.reply("what is my name?").split()
    assert "remembers you" in again.stdout
    assert "Forgotten." in again.stdout
    with server.client() as client:
        assert client.ping()


def test_what_keeps_it_from_beginning_is_one_line(server: Serving, tmp_path: Path) -> None:
    stock = RedisServer(next(iter(redis_binaries().values())), tmp_path)
    (tmp_path / "file").touch()
    try:
        with socket.create_server((LOCALHOST, 0)) as taken:
            running = f"redis://{LOCALHOST}:{server.port}"
            for arguments, reason in (
                (("--url", f"redis://user:secret@{LOCALHOST}:{free_port()}"), "Connect call failed"),
                (("--url", f"{LOCALHOST}:{server.port}"), "schemes"),
                (("--url", stock.url), "unknown command"),
                (("--data-dir", tmp_path / "file"), "data directory"),
                (("web", "--url", running, "--port", taken.getsockname()[1]), "choose another with --port"),
            ):
                done = chat(*arguments)
                assert done.returncode == 1, arguments
                assert reason in done.stderr
                assert len(done.stderr.splitlines()) == 1, done.stderr
                assert "secret" not in done.stderr
    finally:
        stock.stop()
