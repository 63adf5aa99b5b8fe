"""The models and their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["IMAGE", "build_busy", "build_classifier", "images", "zipf"]

IMAGE = (3, 96, 96)
"""Channels, height, width: 108 KB of float32."""
_CHANNELS = (76, 152, 304)
_EXPONENT = 1.1
_BUSY_WIDTH = 128


def build_classifier() -> bytes:
    """`image` float32 (N, 3, 96, 96) -> `y` float32 (N, 10): convolutions, 4 to 5 ms on one core."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, current, channels = [], {}, "image", IMAGE[0]
    for i, width in enumerate(_CHANNELS):
        weights[f"w{i}"] = (rng.standard_normal((width, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [current, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1], strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        weights[f"v{i}"] = (rng.standard_normal((width, width, 3, 3)) / np.sqrt(9 * width)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"r{i}", f"v{i}"], [f"d{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"d{i}"], [f"s{i}"]))
        current, channels = f"s{i}", width
    weights["head"] = rng.standard_normal((channels, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]

    def value(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "classifier", [value("image", ["N", *IMAGE])], [value("y", ["N", 10])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def images(count: int, seed: int = 1) -> list[bytes]:
    """The bytes of so many images."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(IMAGE, np.float32).tobytes() for _ in range(count)]


def zipf(count: int, draws: int, seed: int = 2) -> NDArray[np.int64]:
    """Numbers below `count`: the one of rank k with a probability in proportion to k ** -1.1."""
    weights = np.arange(1, count + 1) ** -_EXPONENT
    return np.random.default_rng(seed).choice(count, draws, p=weights / weights.sum())


def build_busy(features: int, iterations: int) -> bytes:
    """`x` float32 (N, features) -> `y` float32 (1, 1): the sum, after `iterations` products of 128x128 matrices."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    square = [_BUSY_WIDTH, _BUSY_WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "eye"], ["state_out"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", square)],
        [value("go_on", [], TensorProto.BOOL), value("state_out", square)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "square"], ["start"]),
        helper.make_node("Loop", ["trips", "true", "start"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["end_sum"], keepdims=1),
        helper.make_node("Add", ["sum", "end_sum"], ["y"]),
    ]
    constants = {
        "zero": np.zeros((), np.float32),
        "true": np.ones((), np.bool_),
        "eye": np.eye(_BUSY_WIDTH, dtype=np.float32),
        "square": np.array(square, np.int64),
        "trips": np.array(iterations, np.int64),
    }
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "busy", [value("x", ["N", features])], [value("y", [1, 1])], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
