"""No command leaves reference cycles behind: the garbage collector has nothing to do, however many requests come.

Each full collection stops the whole process, and every client with it, for as long as it takes to look at all objects
there are: some 25 ms without, some 160 ms with PyTorch imported. Measured in a process of its own, where nobody else's
connections end meanwhile:

    python tests/conformance/test_garbage.py PORT_OF_REDIS
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import redis

from tests.support import RedisServer

_TIMES = 20
_RUN = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "t", "OUTPUTS", 1, "out")
_DATA = b"\0\0\x80?" * 2

_COMMANDS: dict[str, tuple[str | bytes | int, ...]] = {
    "tensorset": ("AI.TENSORSET", "t", "FLOAT", 1, 2, "BLOB", _DATA),
    "tensorset-values": ("AI.TENSORSET", "v", "FLOAT", 2, "VALUES", 1, 2),
    "tensorset-large": ("AI.TENSORSET", "large", "FLOAT", 100_000, "BLOB", bytes(400_000)),
    "tensorget": ("AI.TENSORGET", "t", "META", "VALUES"),
    "tensorget-large": ("AI.TENSORGET", "large", "BLOB"),
    "tensorget-missing": ("AI.TENSORGET", "missing"),
    "modelexecute": _RUN,
    "modelexecute-failing": ("AI.MODELEXECUTE", "m", "INPUTS", 1, "v", "OUTPUTS", 1, "out"),
    "modelexecute-missing": ("AI.MODELEXECUTE", "missing", "INPUTS", 1, "t", "OUTPUTS", 1, "out"),
    "modelget": ("AI.MODELGET", "m", "META"),
    "dag": (
        *("AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "t", "FLOAT", 1, 2, "BLOB", _DATA, "|>"),
        *(*_RUN, "|>", "AI.TENSORGET", "out", "BLOB"),
    ),
    "dag-load-persist": ("AI.DAGEXECUTE", "LOAD", 1, "t", "PERSIST", 1, "out", "|>", *_RUN),
    "dag-failing": ("AI.DAGEXECUTE", "LOAD", 1, "v", "|>", *_RUN[:4], "v", *_RUN[5:]),
    "dag-timeout": ("AI.DAGEXECUTE", "LOAD", 1, "t", "TIMEOUT", 1000, "|>", *_RUN),
    "dag-ifunchanged": ("AI.DAGEXECUTE", "LOAD", 1, "t", "PERSIST", 1, "out", "IFUNCHANGED", "|>", *_RUN),
    "info": ("AI.INFO", "m"),
    "syntax-error": ("AI.TENSORSET", "t", "FLOAT"),
    "plain": ("SET", "plain", "value"),
}
_PREPARATION = ("tensorset", "tensorset-values", "tensorset-large")


def test_no_command_leaves_cycles(redis_server: RedisServer) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.test_garbage", str(redis_server.port)],
        capture_output=True, text=True, timeout=50, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(_COMMANDS)
    assert {name: counts for name, counts in found.items() if counts} == {}


def _garbage(client: redis.Redis, words: tuple[str | bytes | int, ...]) -> dict[str, int]:
    """Types of ours of which a command leaves at least one object that only the garbage collector can free."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(_TIMES):
            _send(client, words)
        gc.collect()
        ours = Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("redisai_py"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return {name: count for name, count in ours.items() if count >= _TIMES}


def _send(client: redis.Redis, words: tuple[str | bytes | int, ...]) -> None:
    try:
        client.execute_command(*words)
    except redis.ResponseError:
        assert any(word in ("missing", "v") for word in words) or len(words) == 3, words


def _main(redis_port: str) -> None:
    from redisai_py.config import Config
    from scripts.make_models import build_onnx_mul
    from tests.support import FrontDoor

    found = {}
    server = FrontDoor(Config(redis=f"redis://127.0.0.1:{redis_port}", port=0))
    try:
        with redis.Redis(port=server.port, protocol=2) as client:
            client.flushall()
            client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul())
            for name, words in _COMMANDS.items():
                for prepared in _PREPARATION:
                    _send(client, _COMMANDS[prepared])
                for _ in range(3):  # connections are opened, frames remembered, caches filled
                    _send(client, words)
                found[name] = _garbage(client, words)
    finally:
        server.stop()
    print(json.dumps(found))  # the last line: the server logs its end


if __name__ == "__main__":
    _main(sys.argv[1])
