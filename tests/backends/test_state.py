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

from redisai_py.backend import LoadOptions, Session, load_backend, may_keep_state
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
