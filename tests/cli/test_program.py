"""`redisai` as a process: exit codes, what goes where, how fast it starts, what a terminal sees."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from tests.cli.conftest import MUL, Redisai, command
from tests.support import FrontDoor, free_port


def test_a_first_session(program: Redisai, bare: redis.Redis, x: Path, tmp_path: Path) -> None:
    assert program("ping").stdout.startswith("PONG from redis://127.0.0.1:")
    assert program("model", "put", "mul", MUL).code == 0
    assert program("model", "run", "mul", "--input", "x.npy", "--output", "out.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [[3, 4]])
    shown = program("info", "mul", "--json").document
    assert (shown["type"], shown["backend"], shown["calls"], shown["batch_rows"]) == ("MODEL", "ONNX", 1, {"1": 1})
    assert bare.keys() == [b"mul"]


def test_exit_codes(program: Redisai, x: Path) -> None:
    nobody = f"redis://user:secret@127.0.0.1:{free_port()}"
    cases = {
        ("ping",): 0,
        ("model", "get", "absent", "m.onnx"): 1,
        ("tensor", "put", "t", "absent.npy"): 2,
        ("model", "frobnicate"): 2,
        ("ping", "--url", "http://127.0.0.1"): 2,
        ("ping", "--url", f"{nobody}/data"): 2,
        ("ping", "--url", f"{nobody}/0/1"): 2,
        ("ping", "--url", nobody): 3,
    }
    for arguments, code in cases.items():
        done = program(*arguments)
        assert done.code == code, arguments
        assert bool(done.stderr) == (code != 0)
        assert bool(done.stdout) == (code == 0)
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr


def test_a_wrong_password_is_a_refusal(program: Redisai, front_door: FrontDoor) -> None:
    done = program("ping", "--url", f"redis://nobody:secret@127.0.0.1:{front_door.port}")
    assert done.code == 1
    assert "WRONGPASS" in done.stderr or "invalid username-password" in done.stderr
    assert "secret" not in done.stderr


def test_a_server_that_goes_away_is_not_reachable(program: Redisai) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # until it listens no more
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            done = program("ping", "--url", f"redis://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert done.code == 3
    assert "cannot reach" in done.stderr


def test_ping_does_not_wait_for_ever_and_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        pinging = subprocess.Popen(command("ping", "--url", url + "?socket_timeout=0.1"), stderr=subprocess.PIPE)
        assert b"cannot reach" in pinging.communicate(timeout=20)[1]
        assert pinging.returncode == 3
        silent.accept()[0].close()
        waiting = subprocess.Popen(command("info", "--url", url), stderr=subprocess.PIPE)
        with silent.accept()[0] as connection:
            assert connection.recv(1)  # it has asked, and waits for the answer
            waiting.send_signal(signal.SIGINT)
            shown = waiting.communicate(timeout=20)[1]
    assert waiting.returncode != 0
    assert b"Traceback" not in shown


def test_help_imports_neither_clients_nor_numpy() -> None:
    code = (
        "import sys, redisai_py.cli as cli\n"
        "try: cli.app(['model', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'redis', 'hiredis', 'PIL', 'torch'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr.splitlines() == ["[]"]
    assert "put" in done.stdout


def test_whoever_reads_may_stop_reading(program: Redisai, con: Any, url: str) -> None:
    con.tensorset("t", np.zeros((1000, 1000), np.uint8))
    line = " ".join([*command("tensor", "get", "t", "--json"), "| head -c 10"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        timeout=20,
        env={**os.environ, "REDISAI_URL": url},
    )
    assert len(done.stdout) == 10
    assert b"Traceback" not in done.stderr


def test_models_go_through_pipes(program: Redisai, con: Any, url: str) -> None:
    program("model", "put", "a", MUL)
    get, put = (
        " ".join(command("model", *words)) for words in (("get", "a", "-"), ("put", "b", "-", "--backend", "onnx"))
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {get} | {put}"],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "REDISAI_URL": url},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b: ONNX on CPU, 100 B\n", "")
    assert con.modelget("b")["blob"] == MUL.read_bytes()
    assert program("model", "put", "b", "-").code == 2
    nothing = subprocess.run(
        command("model", "put", "b", "-", "--backend", "onnx"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "REDISAI_URL": url},
    )
    assert (nothing.returncode, nothing.stderr) == (2, "redisai: standard input is empty\n")


def test_keys_need_not_be_text(url: str, bare: redis.Redis, x: Path) -> None:
    environment = {**os.environ, "REDISAI_URL": url}
    arguments = [*(word.encode() for word in command("tensor", "put")), b"k\xff", os.fsencode(x)]
    done = subprocess.run(arguments, capture_output=True, timeout=20, env=environment)
    assert done.returncode == 0, done.stderr
    assert bare.keys() == [b"k\xff"]
    arguments = [*(word.encode() for word in command("model", "put", "k", MUL, "--tag")), b"\xff"]
    done = subprocess.run(arguments, capture_output=True, timeout=20, env=environment)
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


def _on_a_terminal(url: str, *arguments: object) -> str:
    """What stderr shows when it is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "REDISAI_URL": url, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    finally:
        os.close(ours)
    assert process.wait(20) == 0, shown
    return shown.decode()


@pytest.mark.timeout(60)
def test_long_transfers_show_their_progress_on_a_terminal(url: str, con: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.zeros(1 << 22, np.uint8))
    shown = _on_a_terminal(url, "tensor", "put", "big", tmp_path / "big.npy")
    assert "sending big.npy" in shown or "storing it" in shown
    shown = _on_a_terminal(url, "tensor", "get", "big", tmp_path / "out.npy")
    assert "fetching big, 4.0 MiB" in shown
    assert "fetching net" not in _on_a_terminal(url, "ping")
    con.modelstore("net", "ONNX", "CPU", MUL)
    assert "fetching net" in _on_a_terminal(url, "model", "get", "net", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == MUL.read_bytes()
