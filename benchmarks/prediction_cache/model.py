"""The models and their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["IMAGE", "build_classifier", "images", "zipf"]

IMAGE = (3, 96, 96)
"""Channels, height, width: 108 KB of float32."""
_CHANNELS = (76, 152, 304)
_EXPONENT = 1.1


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
