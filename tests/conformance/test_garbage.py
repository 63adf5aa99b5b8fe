"""No command leaves reference cycles behind: the garbage collector has nothing to do, however many requests come.

Each full collection stops the whole process, and every client with it, for as long as it takes to look at all objects
there are: some 25 ms without, some 160 ms with PyTorch imported.
"""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import redis

from scripts.make_models import build_onnx_mul

_TIMES = 20
_RUN = ("AI.MODELEXECUTE", "m", "INPUTS", 1, "t", "OUTPUTS", 1, "out")
_DATA = b"\0\0\x80?" * 2

_COMMANDS: dict[str, tuple[str | bytes | int, ...]] = {
    "tensorset": ("AI.TENSORSET", "t", "FLOAT", 1, 2, "BLOB", _DATA),
    "tensorset-values": ("AI.TENSORSET", "v", "FLOAT", 2, "VALUES", 1, 2),
    "tensorset-large": ("AI.TENSORSET", "large", "FLOAT", 100_000, "BLOB", bytes(400_000)),
    "tensorget": ("AI.TENSORGET", "t", "META", "VALUES"),
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


def _send(client: redis.Redis, words: tuple[str | bytes | int, ...]) -> None:
    try:
        client.execute_command(*words)
    except redis.ResponseError:
        assert any(word in ("missing", "v") for word in words) or len(words) == 3, words


def _ours_in_cycles() -> Counter[str]:
    """What of our own types only the garbage collector would have freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("redisai_py"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize("name", _COMMANDS)
def test_command_leaves_no_cycle(client: redis.Redis, name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    client.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul())
    client.execute_command("AI.TENSORSET", "t", "FLOAT", 1, 2, "BLOB", _DATA)
    client.execute_command("AI.TENSORSET", "v", "FLOAT", 2, "VALUES", 1, 2)
    for _ in range(3):  # connections are opened, frames remembered, caches filled
        _send(client, _COMMANDS[name])
    gc.collect()
    gc.disable()
    try:
        for _ in range(_TIMES):
            _send(client, _COMMANDS[name])
        found = _ours_in_cycles()
    finally:
        gc.enable()
    assert all(count < _TIMES for count in found.values()), found
