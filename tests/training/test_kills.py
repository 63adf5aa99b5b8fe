"""Trainings in several processes, killed at random steps: what comes out is what comes out undisturbed, bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from examples.training.train import put_digits
from redisai_py.training import Checkpointer, Run
from tests.support import RedisServer, redis_binaries
from tests.training.test_checkpoints import equal
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).parents[2] / "examples/training/train.py"
STEPS = 420
KILLS = 20


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be killed: it keeps an append-only file, written to disk each second."""
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(found.values())), tmp_path, "--appendonly", "yes", "--appendfsync", "everysec")
    put_digits(server.url)
    yield server
    server.stop()


class Launcher:
    """`redisai train`, started as by a user."""

    def __init__(self, server: RedisServer, log: Path) -> None:
        self.server = server
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        command = [sys.executable, "-m", "redisai_py", "train", words[0], "--url", self.server.url, *words[1:]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=SCRIPT.parents[2],
                env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
            )  # fmt: skip

    @property
    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        return [p for p in psutil.Process(self.process.pid).children() if "redisai_py.training.worker" in p.cmdline()]

    def finish(self) -> None:
        assert self.process is not None
        assert self.process.wait(600) == 0, self.log.read_text()[-4000:]


@pytest.fixture
def launcher(durable: RedisServer, tmp_path: Path) -> Iterator[Launcher]:
    found = Launcher(durable, tmp_path / "log")
    yield found
    if found.process is not None and found.process.poll() is None:
        for each in [*psutil.Process(found.process.pid).children(recursive=True), found.process]:
            each.kill()
        found.process.wait()


def wait_for(condition: Callable[[], Any], launcher: Launcher, seconds: float = 240) -> Any:
    return until(condition, lambda: f"in vain:\n{launcher.log.read_text()[-4000:]}", seconds=seconds, every_s=0.02)


def step_of(server: RedisServer, run: str) -> int:
    try:
        return int(Run(server.url, run).summary().get("step", 0))
    except (redis.RedisError, LookupError):
        return 0


def test_killed_twenty_times_it_ends_with_the_same_parameters(durable: RedisServer, launcher: Launcher) -> None:
    words = ["--nproc", "2", "--max-restarts", "100"]
    script = [str(SCRIPT), "--steps", str(STEPS), "--every", "7", "--timeout", "15"]
    launcher.start("run", "--name", "calm", *words, *script)
    launcher.finish()

    choice = random.Random(15)
    victims = ["worker"] * 7 + ["redis"] * 7 + ["launcher"] * 6
    choice.shuffle(victims)
    launcher.start("run", "--name", "wild", *words, *script, "--pause", "0.01")
    reached, killed = 0, []
    for victim in victims:
        target = reached + choice.randint(3, 18)
        reached = wait_for(lambda target=target: (s := step_of(durable, "wild")) >= target and s, launcher)
        killed.append((victim, reached))
        if victim == "worker":
            choice.choice(wait_for(lambda: launcher.workers, launcher)).kill()
        elif victim == "redis":
            durable.stop()
            time.sleep(choice.uniform(0, 2))
            durable.start()
        else:
            assert launcher.process is not None
            orphans = launcher.workers
            launcher.process.kill()
            launcher.process.wait()
            psutil.wait_procs(orphans, timeout=20)
            assert not [each for each in orphans if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
            launcher.start("resume", "wild", "--yes")
    assert reached < STEPS, f"the training was over before the last kill: {killed}"
    launcher.finish()

    assert len(killed) == KILLS
    calm, wild = Run(durable.url, "calm").summary(), Run(durable.url, "wild").summary()
    assert (calm["state"], wild["state"]) == ("finished", "finished")
    assert calm["parameters"] == wild["parameters"], killed
    states = []
    for run in ("calm", "wild"):
        with Checkpointer(durable.url, run) as checkpoints:
            found = checkpoints.load()
        assert found is not None
        assert found.step == STEPS
        states.append(dict(found.state))
    assert equal(*states), "optimizer and position in the data are the same, too"
