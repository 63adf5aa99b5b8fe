"""Every example and every reachable error of RedisAI's commands, sent over a socket: `examples/*.txt`."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from redisai_py.commands import COMMANDS
from tests.conformance.conversation import talk
from tests.conformance.transcript import Block, matches, read_blocks
from tests.support import FrontDoor, front_doors

BLOCKS = read_blocks()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
def test_example(block: Block, front_door: FrontDoor, bare: redis.Redis) -> None:
    if "(needs no-gpu)" in block.title and Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    if front_doors() > 1 and any("TIMEDOUT" in step.expected for step in block.steps if step.theirs is not None):
        pytest.skip("a run waits for less company where there are several front doors")
    with talk(front_door.port) as client:
        for step in block.steps:
            reply = client.ask(step.words)
            if step.theirs is None:
                if reply.startswith("-"):
                    pytest.fail(f"given {step.words}\n  replied  {reply}", pytrace=False)
            elif not matches(reply, step.expected):
                pytest.fail(f"{step.words}\n  expected {step.expected}\n  replied  {reply}", pytrace=False)


def test_every_command_has_examples() -> None:
    exercised = {step.words.split()[0].upper() for block in BLOCKS for step in block.steps if step.theirs is not None}
    assert {name.decode() for name, row in COMMANDS.items() if row.origin == "RedisAI"} <= exercised
