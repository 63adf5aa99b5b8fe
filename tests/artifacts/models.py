"""Small models for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["MUL", "scaling"]

MUL = Path(__file__).resolve().parents[2] / "examples" / "mul.onnx"


@cache
def scaling(factor: float, ballast: int = 0) -> bytes:
    """An ONNX model: x, float (n, 2) -> y = factor * x.   ballast: bytes that it carries and adds nothing with."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = ["n", 2]
    nodes = [helper.make_node("Mul", ["x", "factor"], ["scaled"]), helper.make_node("Identity", ["scaled"], ["y"])]
    constants = [numpy_helper.from_array(np.array([factor], np.float32), "factor")]
    if ballast:
        constants.append(numpy_helper.from_array(np.random.default_rng(0).random(ballast // 4, np.float32), "ballast"))
        nodes[1:] = [
            helper.make_node("ReduceMean", ["ballast"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["mean", "mean"], ["zero"]),
            helper.make_node("Add", ["scaled", "zero"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
