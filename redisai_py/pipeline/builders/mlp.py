"""Builders of PyTorch: a multilayer perceptron, trained with Adam.

This module writes the ONNX graph itself instead of using torch.onnx: it has three operators, and the same weights give
the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.order import permutation

__all__ = ["MLP_CLASSIFIER", "MLP_REGRESSOR"]

Floats = NDArray[np.float32]

_DEFAULTS: dict[str, Any] = {
    "hidden": [64],
    "epochs": 100,
    "batch": 64,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
}


@dataclass(frozen=True)
class _FittedMlp:
    """layers: weights (outputs, inputs) and biases.   centre, spread: of the target, for regression."""

    layers: Sequence[tuple[Floats, Floats]]
    classes: int
    centre: float
    spread: float
    notes: Sequence[str] = ()

    def predict(self, matrix: Floats) -> NDArray[Any]:
        values = torch.from_numpy(matrix)
        with torch.no_grad():
            for place, (weight, bias) in enumerate(self.layers):
                values = torch.relu(values) if place else values
                values = values @ torch.from_numpy(weight).T + torch.from_numpy(bias)
            if self.classes:
                return np.asarray(torch.softmax(values, 1).numpy())
        return np.asarray(values.numpy().reshape(-1) * np.float32(self.spread) + np.float32(self.centre))

    def to_onnx(self) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        nodes, constants, last = [], [], "matrix"
        for place, (weight, bias) in enumerate(self.layers):
            if place:
                nodes.append(helper.make_node("Relu", [last], [f"relu{place}"]))
                last = f"relu{place}"
            constants += [numpy_helper.from_array(weight, f"w{place}"), numpy_helper.from_array(bias, f"b{place}")]
            nodes.append(helper.make_node("Gemm", [last, f"w{place}", f"b{place}"], [f"gemm{place}"], transB=1))
            last = f"gemm{place}"
        output = "probabilities" if self.classes else "value"
        if self.classes:
            nodes.append(helper.make_node("Softmax", [last], [output], axis=1))
        else:
            constants.append(numpy_helper.from_array(np.array(self.spread, np.float32), "spread"))
            constants.append(numpy_helper.from_array(np.array(self.centre, np.float32), "centre"))
            nodes.append(helper.make_node("Mul", [last, "spread"], ["spreaded"]))
            nodes.append(helper.make_node("Add", ["spreaded", "centre"], [output]))
        width = self.layers[0][0].shape[1]
        graph = helper.make_graph(
            nodes, "mlp",
            [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", width])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", self.classes or 1])],
            constants,
        )  # fmt: skip
        return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())

    def importances(self) -> NDArray[Any] | None:
        return None


@dataclass(frozen=True)
class _MlpBuilder:
    task: str
    scaled: bool = True

    def parameters(self) -> Mapping[str, Any]:
        return _DEFAULTS

    def fit(
        self, matrix: Floats, target: NDArray[Any], classes: int, seed: int, params: Mapping[str, Any]
    ) -> _FittedMlp:
        chosen = _checked({**_DEFAULTS, **params})
        centre, spread = (0.0, 1.0) if classes else (float(target.mean()), float(target.std()) or 1.0)
        goal = torch.from_numpy(target if classes else ((target - centre) / spread).astype(np.float32)[:, None])
        sizes = [matrix.shape[1], *chosen["hidden"], classes or 1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            linear = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        network = torch.nn.Sequential(*[part for each in linear for part in (each, torch.nn.ReLU())][:-1])
        measure: Any = torch.nn.functional.cross_entropy if classes else torch.nn.functional.mse_loss
        rows = torch.from_numpy(matrix)
        adam = torch.optim.Adam(network.parameters(), lr=chosen["learning_rate"], weight_decay=chosen["weight_decay"])
        with _one_thread():
            for epoch in range(chosen["epochs"]):
                order = torch.from_numpy(permutation(len(matrix), "mlp", seed, epoch))
                for part in order.split(chosen["batch"]):
                    adam.zero_grad()
                    measure(network(rows[part]), goal[part]).backward()
                    adam.step()
        layers = [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in linear]
        if not all(np.isfinite(array).all() for layer in layers for array in layer):
            raise Invalid("the training diverged; try a smaller model.params.learning_rate")
        return _FittedMlp(layers, classes, centre, spread)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: steps are too small to share, and another order of sums would give another model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(chosen: dict[str, Any]) -> dict[str, Any]:
    hidden = chosen["hidden"]
    if not isinstance(hidden, list) or not all(type(size) is int and 0 < size <= 1 << 16 for size in hidden):
        raise Invalid("model.params.hidden must be a list of sizes, such as [64, 32]")
    for name in ("epochs", "batch"):
        if type(chosen[name]) is not int or chosen[name] < 1:
            raise Invalid(f"model.params.{name} must be a whole number of at least 1")
    if not chosen["learning_rate"] > 0 or chosen["weight_decay"] < 0:
        raise Invalid("model.params.learning_rate must be above 0, weight_decay at least 0")
    return chosen


MLP_CLASSIFIER = _MlpBuilder("classification")
MLP_REGRESSOR = _MlpBuilder("regression")
