from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from redisai_py.cli.failures import UsageError
from redisai_py.cli.files.scripts import entry_points_of
from tests.cli.conftest import Redisai

SOURCE = """
def twice(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def scaled(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * float(args[0]), tensors[0] + tensors[1]

def helper(x: Tensor) -> Tensor:
    return x

def remember(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("SET", keys[0], args[0])
    return tensors[0]
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    path = tmp_path / "pre.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.timeout(60)
def test_a_script_is_stored_listed_read_run_and_deleted(
    redisai: Redisai, bare: redis.Redis, con: Any, source: Path, x: Path, tmp_path: Path
) -> None:
    stored = redisai("script", "put", "pre", source, "--tag", "v2")
    assert stored.code == 0, stored.stderr
    assert stored.stdout == "pre: twice, scaled, remember on CPU\n"
    assert redisai("script", "ls").stdout.split("\n")[1].split() == [
        "pre",
        "CPU",
        "v2",
        "twice,",
        "scaled,",
        "remember",
    ]
    (listed,) = redisai("script", "ls", "--json").document
    assert listed == {"key": "pre", "device": "CPU", "tag": "v2", "entry points": ["twice", "scaled", "remember"]}
    assert redisai("script", "get", "pre").stdout == SOURCE
    assert redisai("script", "get", "pre", "--json").document["source"] == SOURCE
    redisai("script", "get", "pre", tmp_path / "again.py")
    assert (tmp_path / "again.py").read_text() == SOURCE
    assert redisai("info", "pre", "--json").document["type"] == "SCRIPT"

    run = ("script", "run", "pre")
    assert redisai(*run, "twice", "-i", x).stdout == "0  FLOAT [1, 2]\n[[3., 4.]]\n"
    assert redisai(*run, "twice", "-i", x, "-o", tmp_path / "y.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[3, 4]])
    both = redisai(*run, "scaled", "-i", x, "-i", x, "--arg", "10", "--outputs", 2, "--json").document["outputs"]
    assert [output["values"] for output in both] == [[[15.0, 20.0]], [[3.0, 4.0]]]
    assert bare.keys() == [b"pre"]
    assert redisai(*run, "remember", "-i", x, "--key", "k", "--arg", "v").code == 0
    assert bare.get("k") == b"v"
    unknown = redisai(*run, "nope", "-i", x)
    assert unknown.code == 1
    assert "nope" in unknown.stderr

    assert redisai("script", "rm", "pre").stdout == "pre: deleted\n"
    assert redisai("script", "get", "pre").code == 1
    assert redisai("script", "ls").stderr == "no scripts\n"


def test_a_source_that_cannot_be_written_is_an_error_of_this_machine(redisai: Redisai, tmp_path: Path) -> None:
    refused = redisai("script", "get", "s", tmp_path / "nowhere" / "s.py")
    assert refused.code == 2
    assert "there is no directory" in refused.stderr


def test_a_source_that_does_not_compile_is_refused_by_the_server(redisai: Redisai, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "bad.py").write_text(SOURCE.replace("* 2", "* undefined"))
    refused = redisai("script", "put", "pre", tmp_path / "bad.py")
    assert refused.code == 1
    assert "undefined" in refused.stderr


def test_entry_points_are_found_by_their_signature() -> None:
    assert entry_points_of(SOURCE, "s") == ["twice", "scaled", "remember"]
    modern = "def f(t: list[torch.Tensor], k: list[str], a: list[str]): return t[0]\ndef g(x): return x"
    assert entry_points_of(modern, "s") == ["f"]
    with pytest.raises(UsageError, match="no function takes"):
        entry_points_of("def g(x): return x", "s")
    with pytest.raises(UsageError, match=r"^s, line 2: '\(' was never closed$"):
        entry_points_of("\ndef g(x", "s")
    with pytest.raises(UsageError, match=r"^s: source code string cannot contain null bytes$"):
        entry_points_of("\0", "s")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = 1"])
def test_what_is_no_script_is_said_before_anything_is_sent(
    redisai: Redisai, bare: redis.Redis, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "s.py").write_bytes(content)
    refused = redisai("script", "put", "s", tmp_path / "s.py")
    assert refused.code == 2
    assert "s.py" in refused.stderr
    assert bare.dbsize() == 0
