"""What a type checker makes of the clients: a program that names the types of all results passes it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from redisai_py import AsyncClient, Client
from redisai_py.client import AsyncDag, Dag, Pipeline
from redisai_py.errors import MissingKey

with Client(host="x", port=1, direct="redis://x") as con:
    assert_type(con, Client)
    assert_type(con.client(), Client)
    assert_type(con.tensorset("a", np.ones(3)), str)
    assert_type(con.tensorget("a"), NDArray[Any])
    assert_type(con.tensorget("a", as_numpy_mutable=True), NDArray[Any])
    assert_type(con.tensorget("a", as_numpy=False), dict[str, Any])
    assert_type(con.tensorget("a", meta_only=True), dict[str, Any])
    assert_type(con.modelget("m"), dict[str, Any])
    assert_type(con.modelscan(), list[list[str]])
    assert_type(con.config("x"), str | int | None)
    assert_type(con.dag(load="a").tensorget("a").modelexecute("a", "b", ["c"]), Dag)
    assert_type(con.pipeline(), Pipeline)


async def main() -> None:
    async with AsyncClient.from_url("redis://x") as con:
        assert_type(con, AsyncClient)
        assert_type(await con.tensorget("a"), NDArray[Any])
        assert_type(await con.tensorget("a", as_numpy=False), dict[str, Any])
        assert_type(await con.tensorget("a", meta_only=True), dict[str, Any])
        assert_type(con.dag(load="a").tensorget("a"), AsyncDag)
"""


@pytest.mark.timeout(100)
def test_results_have_types(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
