"""Models of real frameworks that take too much."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

__all__ = ["onnx_allocates", "torch_model"]

_TORCH = """
import sys, torch

class M(torch.nn.Module):
    def forward(self, x):
{body}

torch.jit.save(torch.jit.script(M()), sys.argv[1])
"""


def onnx_allocates(output: str = "y") -> bytes:
    """The input decides how large `big` is: one element for x >= 0, for x < 0 -x times 100 GB. y is its maximum, 1.

    Args: output: y or big.
    """
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    pytest.importorskip("onnxruntime", reason="ONNX: onnxruntime is not installed")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    np = pytest.importorskip("numpy")
    constants = {
        "less": np.array([-25e9], np.float32),
        "one": np.array([1], np.int64),
        "thing": np.array([1.0], np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "less"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["c", "one"], ["shape"]),
        helper.make_node("Expand", ["thing", "shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["y"], keepdims=1),
    ][: None if output == "y" else -1]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "allocates",
        [helper.make_tensor_value_info("x", float32, [1])],
        [helper.make_tensor_value_info(output, float32, ["N"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def torch_model(body: str) -> bytes:
    """A TorchScript model with this `forward(self, x)`."""
    pytest.importorskip("torch", reason="TORCH: torch is not installed")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "program.py")  # torch reads the source of what it compiles
        program.write_text(_TORCH.format(body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8)))
        path = Path(directory, "m.pt")
        subprocess.run([sys.executable, program, path], check=True, timeout=120, capture_output=True)
        return path.read_bytes()
