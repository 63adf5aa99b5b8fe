"""What a new command or element type takes: each is added to a copy of the sources and used, and its files are counted.

CONTRIBUTING names the same files.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, redis_binaries

ROOT = Path(__file__).parent.parent

_DTYPE = 'FLOAT8_E4M3FN = (1, "F8_E4M3", np.dtype(ml_dtypes.float8_e4m3fn))'
_REQUEST = '''
@dataclass(frozen=True, slots=True)
class TensorRank:
    """How many dimensions a tensor has."""

    key: bytes


def parse_tensor_rank(argv: Argv) -> TensorRank:
    """`AI.TENSORRANK key`."""
    if len(argv) != 2:
        raise WrongArity(bytes(argv[0]))
    return TensorRank(to_bytes(argv[1]))


ROWS = (
    CommandSpec(
        name=b"AI.TENSORRANK",
        request=(TensorRank,),
        parse=parse_tensor_rank,
        arity=2,
        flags=READ,
        in_multi="refused",
        arguments=(KEY,),
        summary="Counts a tensor's dimensions.",
        since="1.2.7",
        group="tensors",
        complexity="O(1)",
        examples=(("AI.TENSORRANK t", ":2"),),
    ),
'''
_HANDLER = '''
async def tensor_rank(request: tensors.TensorRank, turn: Turn) -> Any:
    """AI.TENSORRANK."""
    tensor = await (await turn.session.authenticated()).store.tensor(request.key)
    return len(tensor.shape)


HANDLERS: dict[type, Any] = {
    tensors.TensorRank: tensor_rank,
'''

_SERVE = """
import sys

import redis
import redisai_py
from redisai_py.config import Config
from tests.support import FrontDoor

assert redisai_py.__file__.startswith(sys.argv[2]), redisai_py.__file__
door = FrontDoor(Config(redis=sys.argv[1], port=0))
client = redisai_py.Client(port=door.port)
client.flushall()
"""
_USE_COMMAND = """
client.tensorset("t", [1, 2], [2, 1], "float")
assert client.execute_command("ai.tensorrank", "t") == 2
for words, text in (("AI.TENSORRANK", "wrong number of arguments"), ("AI.TENSORRANK absent", "tensor key is empty")):
    try:
        client.execute_command(*words.split())
    except redis.ResponseError as error:
        assert text in str(error), error
    else:
        raise AssertionError(words)
assert client.execute_command("COMMAND GETKEYS", "AI.TENSORRANK", "t") == ["t"]
assert "ai.tensorrank" in client.command()
"""
_USE_DTYPE = """
import ml_dtypes
import numpy as np
from safetensors import deserialize

numbers = [0.5, -1.5, 448.0]
array = np.array(numbers, ml_dtypes.float8_e4m3fn)
client.tensorset("words", numbers, dtype="float8_e4m3fn")
client.tensorset("blob", array)
for key in ("words", "blob"):
    assert np.array_equal(client.tensorget(key), array)
    assert client.tensorget(key, as_numpy=False) == {"dtype": "FLOAT8_E4M3FN", "shape": [3], "values": numbers}
    (_, stored), = deserialize(client.get(key))
    assert (stored["dtype"], stored["shape"]) == ("F8_E4M3", [3])
direct = redisai_py.Client(port=door.port, direct=sys.argv[1])
assert direct.tensorget("blob", as_numpy=False)["values"] == numbers
"""
_USE_DTYPE_IN_TORCH = """
import torch
from redisai_py.client.arrays import tensor_of
from redisai_py_torch._convert import to_array, to_tensor
from redisai_py_torch.script_tensors import decode_tensors, encode_tensors

tensor = to_tensor(array, None, copy=True)
assert tensor.dtype is torch.float8_e4m3fn
assert tensor.float().tolist() == numbers
assert np.array_equal(to_array(tensor, set()), array)
assert np.array_equal(tensor_of(tensor).numpy(), array)
(back,), _ = decode_tensors([["FLOAT8_E4M3FN", [3], 3]], memoryview(bytearray(array.tobytes())))
assert back.dtype is torch.float8_e4m3fn
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Any one Redis."""
    binary = next(iter(redis_binaries().values()), None)
    if binary is None:
        pytest.skip("no Redis")
    redis = RedisServer(binary, tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages, to be changed."""
    for package in ("redisai_py", "backends"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def _insert(path: Path, before: str, text: str) -> None:
    source = path.read_text()
    assert source.count(before) == 1
    path.write_text(source.replace(before, text))


def _changed(copy: Path) -> list[str]:
    """The files of the copy that differ from the sources, or that the sources lack."""
    files = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(
        str(file) for file in files if not (ROOT / file).exists() or not filecmp.cmp(copy / file, ROOT / file, False)
    )


def _run(copy: Path, program: str, server: RedisServer) -> None:
    """Run a program on the copy. It has to succeed."""
    whole = f"{_SERVE}\ntry:\n{textwrap.indent(program, '    ')}\nfinally:\n    door.stop()\n"
    path = os.pathsep.join(
        str(entry) for entry in (copy, copy / "backends", ROOT)
    )  # the packages of the copy come first
    done = subprocess.run(
        [sys.executable, "-c", whole, server.url, str(copy)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_command_touches_one_file_of_commands_and_one_of_handlers(copy: Path, server: RedisServer) -> None:
    commands, handlers = "redisai_py/commands/tensors.py", "redisai_py/ai/tensor_gets.py"
    _insert(copy / commands, "\nROWS = (\n", _REQUEST)
    _insert(copy / handlers, "\nHANDLERS: dict[type, Any] = {\n", _HANDLER)
    _run(copy, _USE_COMMAND, server)
    assert _changed(copy) == sorted([commands, handlers])


def test_an_element_type_touches_one_file(copy: Path, server: RedisServer) -> None:
    home = "redisai_py/tensor.py"
    _insert(copy / home, "    STRING = (", f"    {_DTYPE}\n    STRING = (")
    pytest.importorskip("torch")
    _run(copy, _USE_DTYPE + _USE_DTYPE_IN_TORCH, server)
    assert _changed(copy) == [home]
