"""Progress on a terminal is a bar that is gone afterwards; elsewhere it is lines, or nothing."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("skl2onnx")
pytestmark = pytest.mark.slow

TEXT = """
[artifact]
name = "iris"
[dataset]
source = "sklearn:iris"
targets = ["target"]
[model]
builder = "sklearn.random_forest_classifier"
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout, and what a terminal got on stderr."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "redisai_py", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data
    with contextlib.closing(process.stdout), contextlib.ExitStack() as stack:  # type: ignore[arg-type]
        stack.callback(os.close, ours)
        told = process.stdout.read().decode()  # type: ignore[union-attr]
        return process.wait(20), told, seen.decode(errors="replace")


def screen(text: str) -> str:
    """What is left to see in the end: the last line after carriage returns and erased lines."""
    lines: list[str] = [""]
    row = 0
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece in ("\x1b[2K", "\r"):
            lines[row] = "" if piece == "\x1b[2K" else lines[row]
        elif piece.startswith("\x1b[") and piece.endswith("A"):
            row = max(0, row - int(piece[2:-1] or 1))
        elif not piece.startswith("\x1b"):
            lines[row] += piece
    return "\n".join(lines).strip()


def test_a_bar_that_is_gone_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "iris.toml"
    file.write_text(TEXT)
    code, told, seen = on_a_terminal("pipeline", "run", str(file), "--step", "evaluate")
    assert code == 0, seen
    assert "accuracy" in told
    assert "\x1b" not in told
    plain = _ESCAPES.sub("", seen)
    assert "━" in plain, "a bar"
    assert re.search(r"(train|evaluate) target .*[2-4]/5", plain)
    assert screen(seen) == ""


def test_lines_where_nobody_looks(tmp_path: Path) -> None:
    file = tmp_path / "iris.toml"
    file.write_text(TEXT)
    command = [sys.executable, "-m", "redisai_py", "pipeline", "run", str(file), "--step", "evaluate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines() == ["1/5 load", "2/5 split", "3/5 train target", "4/5 evaluate target"]


def test_an_error_does_not_hide_behind_the_bar(tmp_path: Path) -> None:
    file = tmp_path / "iris.toml"
    file.write_text(TEXT + '[split]\nstratify = "nothing"\n')
    code, _, seen = on_a_terminal("pipeline", "run", str(file), "--step", "evaluate")
    assert code == 2
    assert "has no column nothing" in " ".join(screen(seen).split())
