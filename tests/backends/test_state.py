"""Which models may keep a state from run to run: these are neither warmed up nor merged, and their runs must show."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redisai_py.backend import LoadOptions, Session, load_backend, may_keep_state, may_loop
from redisai_py.tensor import Device
from tests.backends.conftest import as_input

X = as_input(np.ones((2, 3), dtype=np.float32))


def load(backend: str, blob: bytes, **extra: str) -> Session:
    return load_backend(backend).load_model(blob, Device.parse(b"CPU"), (), (), LoadOptions(extra=extra))


def _torch_modules() -> dict[str, tuple[Callable[[], Any], bool]]:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

    class Counter(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.add_(1)
            return x + self.n

    class View(Counter):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.view(-1)[0].add_(1)
            return x + self.n

    class InPlace(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.add_(1)
            return torch.relu_(y)

    class Dropout(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x, 0.5, True)

    return {
        "counter": (Counter, True),
        "view": (View, True),
        "training": (lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(3)).train(), True),
        "normalisation": (lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU(True)).eval(), False),
        "in place": (InPlace, False),
        "dropout": (Dropout, False),
        "mlp": (lambda: torch.nn.Linear(3, 2), False),
    }


TORCH_CASES = ["counter", "view", "training", "normalisation", "in place", "dropout", "mlp"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("form", ["script", "trace", "export"])
@pytest.mark.parametrize("name", TORCH_CASES)
def test_torch(name: str, form: str) -> None:
    make, keeps = _torch_modules()[name]
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    sample = torch.ones(2, 3)
    if form == "script":
        torch.jit.save(torch.jit.script(make()), file)
    elif form == "trace":
        torch.jit.save(torch.jit.trace(make(), sample, check_trace=False), file)
    else:
        torch.export.save(torch.export.export(make(), (sample,)), file)
    assert may_keep_state(load("TORCH", file.getvalue())) is keeps


def _saved_model() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    spec = tf.TensorSpec([None, 3], tf.float32, name="x")

    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(tf.ones([3]))
            self.count = tf.Variable(0.0)
            keys = tf.lookup.KeyValueTensorInitializer(tf.constant([1], tf.int64), tf.constant([2.0]))
            self.table = tf.lookup.StaticHashTable(keys, 0.0)

        @tf.function(input_signature=[spec])
        def reads(self, x: Any) -> Any:
            noise = tf.random.uniform([]) * 0.0
            return {"y": x * self.weight + self.table.lookup(tf.cast(x, tf.int64)) + noise}

        @tf.function(input_signature=[spec])
        def counts(self, x: Any) -> Any:
            return {"y": x + self.count.assign_add(1.0)}

        @tf.function(input_signature=[spec])
        def counts_in_a_loop(self, x: Any) -> Any:
            for _ in tf.range(2):
                self.count.assign_add(0.5)
            return {"y": x + self.count}

    module = Module()
    file = io.BytesIO()
    signatures = {name: getattr(module, name) for name in ("reads", "counts", "counts_in_a_loop")}
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=signatures)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    return file.getvalue()


def test_tensorflow() -> None:
    blob = _saved_model()
    for name, keeps in (("reads", False), ("counts", True), ("counts_in_a_loop", True)):
        session = load("TF", blob, signature=name)
        assert may_keep_state(session) is keeps, name
        if keeps:
            assert [session.run([X])[0][0, 0] for _ in range(3)] == [2.0, 3.0, 4.0]  # type: ignore[index]


def _until_large(tf: Any) -> Any:
    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32, name="x")])
        def f(self, x: Any) -> Any:
            return {"y": tf.while_loop(lambda x: tf.reduce_sum(x) < 100, lambda x: [x * 2], [x])[0]}

    return Module()


def _saved_loop() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    module, file = _until_large(tf), io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=module.f)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    return file.getvalue()


def _lite_loop() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the model, is not installed")
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    module = _until_large(tf)
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module).convert())


def _scripted(loop: str) -> bytes:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")
    kind: Any = type("Looping", (torch.nn.Module,), {})  # one of its own, since `forward` is defined once per class
    scripted, file = torch.jit.script(kind()), io.BytesIO()
    scripted.define(f"def forward(self, x):\n    {loop}:\n        x = x * 2\n    return x\n")
    torch.jit.save(scripted, file)
    return file.getvalue()


def _onnx_loop() -> bytes:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            node("Add", ["v", "v"], ["w"]),
            node("ReduceSum", ["w"], ["s"], keepdims=0),
            node("Less", ["s", "hundred"], ["goes on"]),
        ],
        "body",
        [value("i", 7, []), value("c", 9, []), value("v", 1, [2])],
        [value("goes on", 9, []), value("w", 1, [2])],
        [onnx.numpy_helper.from_array(np.float32(100), "hundred")],
    )
    graph = onnx.helper.make_graph(
        [node("Loop", ["", "true", "x"], ["y"], body=body)],
        "g",
        [value("x", 1, [2])],
        [value("y", 1, [2])],
        [onnx.numpy_helper.from_array(np.bool_(True), "true")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("backend", "make"),
    [
        ("TF", _saved_loop),
        ("TFLITE", _lite_loop),
        ("TORCH", lambda: _scripted("while bool(x.sum() < 100)")),
        ("ONNX", _onnx_loop),
    ],
)
def test_a_loop_that_zeros_would_never_end_is_recognised(backend: str, make: Callable[[], bytes]) -> None:
    session = load(backend, make())
    assert may_loop(session)
    assert not may_keep_state(session)
    (result,) = session.run([as_input(np.array([1, 2], np.float32))])
    assert result.tolist() == [64, 128]  # type: ignore[union-attr]


def test_a_loop_with_a_number_of_rounds_is_none() -> None:
    assert not may_loop(load("TORCH", _scripted("for _ in range(x.size(0))")))
