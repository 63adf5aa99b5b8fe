"""Which models draw random numbers, or are in training mode: equal inputs give them other outputs, so no cache keeps
these. What a backend says is held against what the framework does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from redisai_py.backend import what_draws
from scripts.make_models import frozen_graph, torch_script
from tests.backends.conftest import as_input
from tests.backends.test_state import load

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 6
RUNS = 12


def answers(session: Any) -> int:
    """How many different outputs some runs on equal inputs give."""
    return len({np.asarray(session.run([as_input(X)])[0]).tobytes() for _ in range(RUNS)})


def onnx_model(*nodes: tuple[Any, ...]) -> bytes:
    """`x` -> `y`. nodes: operator, inputs, outputs, attributes."""
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    helper = onnx.helper
    made = [helper.make_node(kind, ins, outs, **more) for kind, ins, outs, more in nodes]
    constants = [
        onnx.numpy_helper.from_array(np.array(value), name)
        for name, value in (("yes", True), ("no", False), ("half", np.float32(0.5)))
    ]
    tensor = helper.make_tensor_value_info
    kind = onnx.TensorProto.INT32 if nodes[0][0] == "Multinomial" else onnx.TensorProto.FLOAT
    graph = helper.make_graph(made, "g", [tensor("x", 1, [2, 3])], [tensor("y", kind, None)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_in_a_branch() -> bytes:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    helper, tensor = onnx.helper, onnx.helper.make_tensor_value_info

    def branch(name: str, kind: str, **more: Any) -> Any:
        return helper.make_graph([helper.make_node(kind, ["x"], [name], **more)], name, [], [tensor(name, 1, [2, 3])])

    sides = {"then_branch": branch("a", "RandomNormalLike", dtype=1), "else_branch": branch("b", "Identity")}
    return onnx_model(("If", ["yes"], ["y"], sides))


ONNX: dict[str, tuple[Callable[[], bytes], str]] = {
    "normal": (lambda: onnx_model(("RandomNormalLike", ["x"], ["y"], {"dtype": 1})), "RandomNormalLike"),
    "uniform": (
        lambda: onnx_model(("RandomUniform", [], ["r"], {"shape": [2, 3], "dtype": 1}), ("Add", ["x", "r"], ["y"], {})),
        "RandomUniform",
    ),
    "seeded": (lambda: onnx_model(("RandomNormalLike", ["x"], ["y"], {"dtype": 1, "seed": 3.0})), "RandomNormalLike"),
    "bernoulli": (lambda: onnx_model(("Bernoulli", ["x"], ["y"], {})), "Bernoulli"),
    "multinomial": (lambda: onnx_model(("Multinomial", ["x"], ["y"], {"sample_size": 20})), "Multinomial"),
    "branch": (onnx_in_a_branch, "RandomNormalLike"),
    "dropout that trains": (lambda: onnx_model(("Dropout", ["x", "half", "yes"], ["y"], {})), "Dropout"),
    "dropout": (lambda: onnx_model(("Dropout", ["x", "half"], ["y"], {})), ""),
    "plain": (lambda: onnx_model(("Relu", ["x"], ["y"], {})), ""),
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name: str) -> None:
    make, operator = ONNX[name]
    session = load("ONNX", make())
    assert what_draws(session) == operator
    assert (answers(session) > 1) is bool(operator)


def _torch_cases() -> dict[str, tuple[Callable[[], Any], str]]:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")
    nn, functional = torch.nn, torch.nn.functional

    class Lambda(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            return self.function(x)

    def attention(dropout: float) -> Any:
        def attend(x: Any) -> Any:
            heads = x.view(1, 1, 2, 3)
            return functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=dropout).view(2, 3)

        return Lambda(attend)

    class Encoder(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(3, 1, 8, dropout=0.5)

        def forward(self, x: Any) -> Any:
            return self.layer(x.view(2, 1, 3)).view(2, 3)

    class Recurrent(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(3, 3, num_layers=2, dropout=0.5)

        def forward(self, x: Any) -> Any:
            return self.layer(x.view(2, 1, 3))[0].view(2, 3)

    return {
        "rand": (lambda: Lambda(lambda x: x + torch.rand_like(x)), "aten::rand_like"),
        "bernoulli": (lambda: Lambda(torch.bernoulli), "aten::bernoulli"),
        "multinomial": (lambda: Lambda(lambda x: torch.multinomial(x, 2).float()), "aten::multinomial"),
        "gumbel": (lambda: Lambda(functional.gumbel_softmax), "aten::exponential_"),
        "dropout": (lambda: nn.Dropout(0.5), "aten::dropout"),
        "dropout, evaluating": (lambda: nn.Dropout(0.5).eval(), ""),
        "attention": (lambda: attention(0.5), "aten::scaled_dot_product_attention"),
        "attention, evaluating": (lambda: attention(0.0), ""),
        "transformer": (Encoder, "aten::dropout, aten::scaled_dot_product_attention"),
        "transformer, evaluating": (lambda: Encoder().eval(), ""),
        "lstm": (Recurrent, "aten::lstm"),
        "lstm, evaluating": (lambda: Recurrent().eval(), ""),
        "instance norm": (lambda: nn.InstanceNorm1d(2), ""),
        "linear": (lambda: nn.Linear(3, 3), ""),
    }


TORCH = [
    "rand", "bernoulli", "multinomial", "gumbel", "dropout", "dropout, evaluating", "attention",
    "attention, evaluating", "transformer", "transformer, evaluating", "lstm", "lstm, evaluating", "instance norm",
    "linear",
]  # fmt: skip


@pytest.mark.parametrize("form", ["trace", "export"])
@pytest.mark.parametrize("name", TORCH)
def test_torch(name: str, form: str) -> None:
    make, operators = _torch_cases()[name]
    import torch

    file, sample = io.BytesIO(), (torch.from_numpy(X),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "trace":
            torch.jit.save(torch.jit.trace(make(), sample, check_trace=False), file)
        else:
            torch.export.save(torch.export.export(make(), sample), file)
        session = load("TORCH", file.getvalue())
    assert what_draws(session) == operators
    assert (answers(session) > 1) is bool(operators)


def test_training_mode_of_torch_is_told_though_it_draws_nothing() -> None:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")
    for training in (True, False):
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.BatchNorm1d(3).train(training)), file)
        assert bool(what_draws(load("TORCH", file.getvalue()))) is training


def test_a_branch_that_trains_is_told_and_one_that_never_runs_is_not() -> None:
    pytest.importorskip("torch", reason="TORCH: torch is not installed")
    source = "def forward(self, x):\n    return torch.dropout(x, 0.5, {})"
    assert what_draws(load("TORCH", torch_script(source.format("bool(x.sum() > 0)")))) == "aten::dropout"
    assert what_draws(load("TORCH", torch_script(source.format("False")))) == ""


def _frozen(build: Callable[[Any, Any], Any]) -> bytes:
    pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

    def graph(tf: Any) -> None:
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], name="x")
        tf.identity(build(tf, x), name="y")

    return frozen_graph(graph)


TF: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "uniform": (lambda tf, x: x + tf.random.uniform([2, 3]), "RandomUniform"),
    "normal, seeded": (lambda tf, x: x + tf.random.normal([2, 3], seed=4), "RandomStandardNormal"),
    "truncated": (lambda tf, x: x + tf.random.truncated_normal([2, 3]), "TruncatedNormal"),
    "shuffled": (lambda tf, x: tf.random.shuffle(tf.reshape(x, [-1])), "RandomShuffle"),
    "dropout": (lambda tf, x: tf.nn.dropout(x, 0.5), "RandomUniform"),
    "gamma": (lambda tf, x: tf.random.gamma([], x + 1), "RandomGamma"),
    "stateless": (lambda tf, x: x + tf.random.stateless_uniform([2, 3], [1, 2]), ""),
    "clock": (lambda tf, x: tf.timestamp() + tf.cast(x, tf.float64), "Timestamp"),
    "plain": (lambda tf, x: x * 2, ""),
}


@pytest.mark.parametrize("name", TF)
def test_tensorflow(name: str) -> None:
    build, operation = TF[name]
    blob = _frozen(build)
    from redisai_py.backend import LoadOptions, load_backend
    from redisai_py.tensor import Device

    session = load_backend("TF").load_model(blob, Device.parse(b"CPU"), ("x",), ("y",), LoadOptions())
    assert what_draws(session) == operation
    assert (answers(session) > 1) is bool(operation)


TFLITE: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "uniform": (lambda tf, x: x + tf.random.uniform([2, 3]), "RANDOM_UNIFORM"),
    "normal": (lambda tf, x: x + tf.random.normal([2, 3]), "RANDOM_STANDARD_NORMAL"),
    "plain": (lambda tf, x: x * 2, ""),
}


@pytest.mark.parametrize("name", TFLITE)
def test_tflite(name: str) -> None:
    tf = pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the model, is not installed")
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    build, operator = TFLITE[name]
    module = tf.Module()
    function = tf.function(lambda x: build(tf, x), input_signature=[tf.TensorSpec([2, 3], tf.float32, name="x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    session = load("TFLITE", bytes(converter.convert()))
    assert what_draws(session) == operator
    assert (answers(session) > 1) is bool(operator)
