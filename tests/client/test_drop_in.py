"""The same program with the `redisai` package and with ours gives the same results.

That package needs redis-py 4, so it lives in an environment of its own; REDISAI13_PYTHON names the Python of one that
has `redisai==1.3.0` and `redis==4.6.0`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_models import build_onnx_add

PYTHON = os.environ.get("REDISAI13_PYTHON")
SCRIPT = Path(__file__).with_name("drop_in_script.py")
ROOT = Path(__file__).parents[2]


def run(python, package, port, model):
    command = [python, "-W", "ignore", SCRIPT, package, str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if package == "redisai_py" else ""}
    done = subprocess.run(command, input=model, capture_output=True, timeout=50, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    printed, _, results = done.stdout.decode().partition("[[")
    return printed, json.loads("[[" + results)


def test_our_package_runs_the_program(front_door, bare):
    printed, results = run(sys.executable, "redisai_py", front_door.port, build_onnx_add())
    assert printed == "AI.TENSORSET x FLOAT 2 VALUES 2 3\n"
    assert len(results) > 100


@pytest.mark.skipif(PYTHON is None, reason="REDISAI13_PYTHON names no Python with redisai 1.3")
def test_both_packages_give_the_same(front_door, bare):
    model = build_onnx_add()
    theirs_printed, theirs = run(PYTHON, "redisai", front_door.port, model)
    ours_printed, ours = run(sys.executable, "redisai_py", front_door.port, model)
    assert ours_printed == theirs_printed
    for our, their in zip(ours, theirs, strict=True):
        assert our == their
