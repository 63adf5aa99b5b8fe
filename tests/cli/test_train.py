"""`redisai train` against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from redisai_py.cli.commands.train import sparkline
from redisai_py.training.runs import Run
from tests.cli.conftest import Redisai

SCRIPT = """
import os, sys
from redisai_py.training.runs import Run
run = Run.current()
run.begin(steps=3, lr=0.5)
for step in range(1, 4):
    run.report(step, loss=1 / step)
run.note(arguments=" ".join(sys.argv[1:]), ranks=os.environ["WORLD_SIZE"])
if "fail" in sys.argv:
    raise SystemExit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "my train.py"
    path.write_text(SCRIPT)
    return path


def test_what_is_shown_of_a_run(redisai: Redisai, url: str) -> None:
    run = Run(url, "clicks-1")
    run.begin(steps=200, lr=0.1)
    for step in range(0, 101, 10):
        run.report(step, loss=1.0 - step / 200, accuracy=step / 200)
    (row,) = redisai("train", "ls", "--json").document
    assert (row["run"], row["state"], row["step"], row["metrics"]) == (
        "clicks-1", "running", "100", {"accuracy": "0.5", "loss": "0.5"},
    )  # fmt: skip
    shown = redisai("train", "show", "clicks-1").stdout
    assert "50%, step 100 of 200" in shown
    assert "lr: 0.1" in shown
    assert "loss  █▇▇▆▅▅▄▃▂▂▁  1 -> 0.5" in shown
    assert "accuracy  ▁" in redisai("train", "show", "clicks-1", "--metric", "accuracy").stdout
    assert redisai("train", "show", "clicks-1", "--json").document["series"][1] == [10, 0.95]


def test_what_is_not_there(redisai: Redisai, tmp_path: Path, script: Path) -> None:
    assert redisai("train", "ls").stderr == "no runs\n"
    done = redisai("train", "show", "nothing")
    assert (done.code, done.stderr) == (1, "redisai: there is no run nothing\n")
    assert "there is no run nothing" in redisai("train", "resume", "nothing").stderr
    done = redisai("train", "run", tmp_path / "none.py")
    assert (done.code, done.stderr) == (2, f"redisai: {tmp_path / 'none.py'}: there is no such script\n")
    done = redisai("train", "run", "--name", "a b", script)
    assert done.code == 2
    assert "'a b' is not a name" in done.stderr
    assert "--nnodes needs --rdzv-endpoint and --name" in redisai("train", "run", "--nnodes", "2", script).stderr
    assert redisai("train", "ls", "--url", "redis://127.0.0.1:1").code == 3


def test_a_run_that_was_not_launched_cannot_be_resumed(redisai: Redisai, url: str) -> None:
    Run(url, "by-hand").begin()
    assert "was not started by `redisai train run`" in redisai("train", "resume", "by-hand").stderr


def test_a_script_is_run_and_resumed_and_fails(script: Path, url: str, bare: redis.Redis, program: Redisai) -> None:
    """In a program of its own: torchrun sets up signals and the environment."""
    done = program("train", "run", "--name", "r", script, "--depth", "3", "--nproc", "1", "--url", url)
    assert done.code == 0, done.stderr
    summary = bare.hgetall("ai:summary:run:r")
    assert summary[b"state"] == b"finished"
    assert (summary[b"arguments"], summary[b"ranks"]) == (b"--depth 3", b"1")
    again = program("train", "run", "--url", url, "--name", "r", script)
    assert (again.code, "run r already exists: use `redisai train resume r`" in again.stderr) == (1, True)
    unasked = program("train", "resume", "--url", url, "r")
    assert unasked.code != 0
    assert f"Start {script} --depth 3?" in unasked.stderr
    # What is behind -- is the script's, whatever it looks like.
    failed = program(
        "train", "run", "--url", url, "--name", "f", "--max-restarts", "0", script, "--", "fail", "--nproc", "9"
    )
    assert failed.code == 1
    assert "rank 0 ended with exit code 3" in failed.stderr
    assert bare.hget("ai:summary:run:f", "state") == b"failed"
    assert bare.hget("ai:summary:run:f", "arguments") == b"fail --nproc 9"


def test_lines_of_blocks() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, float("nan"), 7.0]) == "▁ █"
    assert len(sparkline([float(value) for value in range(1000)])) == 60
