"""What stands behind `<name>` in transcripts: tiny real models, TorchScript sources, and awkward bytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tests.support import long_model

__all__ = ["Contents", "boom_model", "scaling_model"]


def _load_builders() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_models = _load_builders()


def boom_model() -> bytes:
    """An ONNX model that loads and fails at every run of fewer than 7 elements."""
    node = _models._onnx("helper").make_node("Reshape", ["x", "seven"], ["y"])
    values = _models._onnx_value("x", ["N", "M"]), _models._onnx_value("y", [7])
    return bytes(_models._onnx_model([node], values[:1], values[1:], {"seven": np.array([7], np.int64)}))


def _row_sum_model() -> bytes:
    """y = sum over the rows: its output's dimension 0 is not the batch's."""
    node = _models._onnx("helper").make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    values = _models._onnx_value("x", ["N", 2]), _models._onnx_value("y", [1, 1])
    return bytes(_models._onnx_model([node], values[:1], values[1:]))


def scaling_model(factor: float) -> bytes:
    """y = factor * x, for x (N, 2)."""
    node = _models._onnx("helper").make_node("Mul", ["x", "factor"], ["y"])
    values = [_models._onnx_value(name, ["N", 2]) for name in "xy"]
    return bytes(_models._onnx_model([node], values[:1], values[1:], {"factor": np.array(factor, np.float32)}))


def _triple_model() -> bytes:
    """y = 3 * x, of the same signature as the model that doubles."""
    return scaling_model(3)


def _add_any_model() -> bytes:
    """c = a + b for any matrices."""
    node = _models._onnx("helper").make_node("Add", ["a", "b"], ["c"])
    values = [_models._onnx_value(name, ["N", "M"]) for name in "abc"]
    return bytes(_models._onnx_model([node], values[:2], values[2:]))


def _gather_model() -> bytes:
    """y = the squares of 0 to 3 at x: fails if one of the indices is larger."""
    node = _models._onnx("helper").make_node("Gather", ["squares", "x"], ["y"])
    values = _models._onnx_value("x", ["N"], "INT64"), _models._onnx_value("y", ["N"])
    return bytes(_models._onnx_model([node], values[:1], values[1:], {"squares": np.arange(4, dtype=np.float32) ** 2}))


_SCRIPT = """\
def norm(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] if len(tensors) > 0 else torch.tensor(float(args[0]))

def crop(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0][0:1]

def two(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0], tensors[0] + tensors[0]

def scalar(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.tensor(len(tensors) + 10 * len(keys) + 100 * len(args))

def number(tensors: List[Tensor], keys: List[str], args: List[str]):
    return 5

def half(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0].to(torch.half)

def imaginary(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.complex(tensors[0], tensors[0])

def fail(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[99]
"""

_OLD_SCRIPT = """\
def add(a, b):
    return a + b

def addn(a, rest: List[Tensor]):
    for item in rest:
        a = a + item
    return a

def f(a):
    return a

def scaled(a, factor: int):
    return a * factor

def number(a):
    return 5
"""

_LIB_SCRIPT = """\
def counter(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCRBY", keys[0], args[0])
    v: Any = redis.execute("GET", keys[0])
    return torch.tensor(int(str(v)))

def score(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], [tensors[0] / float(args[0])], 1)

def big(tensors: List[Tensor], keys: List[str], args: List[str]):
    reply: Any = redis.execute("INCRBY", keys[0], args[0])
    return torch.tensor(int(str(reply)))

def listed(tensors: List[Tensor], keys: List[str], args: List[str]):
    items = redis.asList(redis.execute("LRANGE", keys[0], "0", "-1"))
    return torch.tensor([int(str(item)) for item in items])

def run(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute(args[0], args[1:])
    return torch.tensor(1)

def missing(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.tensor(1 if str(redis.execute("GET", keys[0])) == "None" else 0)

def two_inputs(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], [tensors[0], tensors[0]], 1)
"""

_ENDLESS = """\
def forever(tensors: List[Tensor], keys: List[str], args: List[str]):
    n = 0
    while n >= 0:
        n = n * 2 % 7
    return torch.tensor(n)

def pause(tensors: List[Tensor], keys: List[str], args: List[str]):
    n = 0
    for i in range(int(args[0])):
        n = (n + i) % 7
    return torch.tensor(n)
"""

_LISTS = "def f(tensors: List[Tensor], keys: List[str]):\n    return tensors[0]\n"
_TYPES = "def f(tensors: Tensor, keys: List[str], args: List[str]):\n    return tensors\n"


def _torch(source: str) -> Callable[[], bytes]:
    return lambda: bytes(_models.torch_script(source))


_CONTENTS: dict[str, Callable[[], bytes]] = {
    **{name.partition(".")[0]: build for name, build in _models.BUILDERS.items() if "saved_model" not in name},
    "tf_saved_model": _models.build_tf_saved_model_zip,
    "onnx_boom": boom_model,
    "onnx_row_sum": _row_sum_model,
    "onnx_add_any": _add_any_model,
    "onnx_gather": _gather_model,
    "onnx_triple": _triple_model,
    "onnx_endless": lambda: bytes(_models.build_onnx_heavy(1_000_000)),
    "onnx_slow": lambda: bytes(_models.build_onnx_heavy(3000)),
    "torch_list": _torch("def forward(self, x) -> List[Tensor]:\n    return [x, x]"),
    "torch_half": _torch("def forward(self, x) -> Tensor:\n    return x[0, 0:1].to(torch.half)"),
    "torch_complex": _torch("def forward(self, x):\n    return torch.complex(x, x)"),
    "torch_complex_double": _torch("def forward(self, x):\n    return torch.complex(x.double(), x.double())"),
    "torch_bfloat16": _torch("def forward(self, x):\n    return x.to(torch.bfloat16)"),
    "torch_no_tensor": _torch("def forward(self, x):\n    return 5"),
    "onnx_long": long_model,
    "onnx_no_graph": lambda: b"\x08\x08",
    "torch_nine": _torch(f"def forward(self, {', '.join('abcdefghi')}):\n    return a"),
    "torch_pair": _torch("def forward(self, a, b) -> Tuple[Tensor, Tensor]:\n    return a, b"),
    "garbage": lambda: b"this is not a model",
    "script": lambda: _SCRIPT.encode(),
    "old_script": lambda: _OLD_SCRIPT.encode(),
    "minus_script": lambda: b"def add(a, b):\n    return a - b\n",
    "lib_script": lambda: _LIB_SCRIPT.encode(),
    "endless_script": lambda: _ENDLESS.encode(),
    "script_two_parameters": lambda: _LISTS.encode(),
    "script_tensor_parameter": lambda: _TYPES.encode(),
    "eight": lambda: b"12345678",
    "safetensors": lambda: bytes(safetensors.numpy.save({"x": np.array([1, 2], np.uint8)})),
}


class Contents(Mapping[str, bytes]):
    """Each content, made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._made:
            self._made[name] = _CONTENTS[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_CONTENTS)

    def __len__(self) -> int:
        return len(_CONTENTS)

    @property
    def names(self) -> dict[bytes, str]:
        """Contents made up to now, by their bytes."""
        return {content: name for name, content in self._made.items()}
