"""The models that are run: those of scripts/make_models.py, and one for fraud detection."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CNN_IMAGE",
    "FRAUD_REFERENCE",
    "FRAUD_TRANSACTION",
    "blob",
    "build_cnn",
    "build_fraud",
    "build_heavy",
    "store",
    "torch_script",
]

FRAUD_TRANSACTION, FRAUD_REFERENCE = 30, 256
"""Numbers of float32 in the two inputs of the fraud model."""
_HIDDEN = 64
CNN_IMAGE = (3, 64, 64)
"""Channels, height and width of the CNN's input, 48 KB of float32."""
_CNN_LAYERS, _CNN_CHANNELS = 4, 64


def _make_models() -> Any:
    path = Path(__file__).resolve().parents[2] / "scripts" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def store(directory: Path, name: str, data: bytes) -> Path:
    """The model as a file."""
    path = directory / f"{name}.onnx"
    path.write_bytes(data)
    return path


def blob(name: str) -> bytes:
    """A model of scripts/make_models.py by its file's name: `onnx_mul`, `onnx_mlp`."""
    data: bytes = _make_models().BUILDERS[f"{name}.onnx"]()
    return data


def torch_script(source: str) -> bytes:
    """A module whose `forward` is given as TorchScript source."""
    data: bytes = _make_models().torch_script(source)
    return data


def build_heavy(iterations: int) -> bytes:
    """`x` float32 (N, 2) -> the same, after `iterations` times about 0.16 ms on one core."""
    data: bytes = _make_models().build_onnx_heavy(iterations)
    return data


def build_fraud() -> bytes:
    """`transaction` float32 (N, 30), `reference` float32 (N, 256) -> `score` float32 (N, 2): two dense layers."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    width = FRAUD_TRANSACTION + FRAUD_REFERENCE
    weights = {
        "w0": rng.standard_normal((width, _HIDDEN)).astype(np.float32) / 16,
        "b0": np.zeros(_HIDDEN, np.float32),
        "w1": rng.standard_normal((_HIDDEN, 2)).astype(np.float32) / 8,
        "b1": np.zeros(2, np.float32),
    }
    nodes = [
        helper.make_node("Concat", ["transaction", "reference"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w0", "b0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["score"], axis=1),
    ]

    def value(name: str, columns: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", columns])

    graph = helper.make_graph(
        nodes,
        "fraud",
        [value("transaction", FRAUD_TRANSACTION), value("reference", FRAUD_REFERENCE)],
        [value("score", 2)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def build_cnn() -> bytes:
    """`image` float32 (N, 3, 64, 64) -> `y` float32 (N, 10): four convolutions of 64 channels, 4 ms on one core."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, current, channels = [], {}, "image", CNN_IMAGE[0]
    for i in range(_CNN_LAYERS):
        shape = (_CNN_CHANNELS, channels, 3, 3)
        weights[f"w{i}"] = (rng.standard_normal(shape) / np.sqrt(9 * channels)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [current, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        current, channels = f"r{i}", _CNN_CHANNELS
    weights["head"] = rng.standard_normal((channels, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *CNN_IMAGE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "cnn", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
