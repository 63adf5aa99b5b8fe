"""A model that takes a branch on values of its inputs answers in company as alone, though the branch is rare."""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from redisai_py import Client
from scripts.make_models import torch_script
from tests.backends.test_branches import onnx_branch, onnx_branch_on_size
from tests.support import FrontDoor

LIMIT = 1000.0
USUAL = [np.full((1, 3), value, np.float32) for value in (1, 2, 3, 4)]
RARE = [*USUAL[:3], np.full((1, 3), 2 * LIMIT, np.float32)]
"""The last one alone exceeds the limit, and so would a batch with it."""


def _answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x + x if x.sum() > LIMIT else -x


def _script() -> bytes:
    return torch_script(f"def forward(self, x):\n    if bool(x.sum() > {LIMIT}):\n        return x + x\n    return -x")


def _torch() -> Any:
    return pytest.importorskip("torch", reason="TORCH: torch is not installed")


def _export() -> bytes:
    torch = _torch()

    class Chooses(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > LIMIT, lambda y: y + y, lambda y: -y, (x,))

    rows = {0: torch.export.Dim("rows", min=1, max=64)}
    file = io.BytesIO()
    program = torch.export.export(Chooses(), (torch.ones(2, 3),), dynamic_shapes=(rows,))
    torch.export.save(program, file)
    return file.getvalue()


def _tf_function(tf: Any) -> Any:
    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def f(self, x: Any) -> Any:
            return {"y": tf.cond(tf.reduce_sum(x) > LIMIT, lambda: x + x, lambda: -x)}

    return Module()


def _saved_model() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    module, file = _tf_function(tf), io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=module.f)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    return file.getvalue()


def _flatbuffer() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the model, is not installed")
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    module = _tf_function(tf)
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module).convert())


BRANCHES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "ONNX": ("ONNX", lambda: onnx_branch(LIMIT), "If"),
    "TorchScript": ("TORCH", _script, "aten::Bool"),
    "torch.export": ("TORCH", _export, "torch.cond"),
    "SavedModel": ("TF", _saved_model, "StatelessIf"),
    "TFLite": ("TFLITE", _flatbuffer, "IF"),
}


@pytest.fixture
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Client]:
    with Client(port=front_door.port) as client:
        yield client


def _together(port: int, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any] | str]:
    """The output for each input, or the error; each of a client of its own, all at the same moment."""
    gate = threading.Barrier(len(inputs))
    results: list[NDArray[Any] | str] = [""] * len(inputs)

    def run(at: int) -> None:
        with Client(port=port) as client:
            client.tensorset(f"x{at}", inputs[at])
            gate.wait()
            try:
                client.modelexecute("m", f"x{at}", f"y{at}")
                results[at] = client.tensorget(f"y{at}")
            except redis.ResponseError as error:
                results[at] = str(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("form", BRANCHES)
def test_a_rare_branch_is_taken_by_those_requests_alone_that_take_it_alone(
    form: str, client: Client, front_door: FrontDoor
) -> None:
    backend, make, operator = BRANCHES[form]
    client.modelstore("m", backend, "CPU", make(), batch=8, minbatch=4, minbatchtimeout=300)
    for inputs in (USUAL, USUAL, USUAL, RARE, RARE):  # at first merged runs would show nothing
        for result, x in zip(_together(front_door.port, inputs), inputs, strict=True):
            assert np.array_equal(result, _answer(x)), (result, x)
    info = client.infoget("m", full=True)
    assert info["not_merged"] == f"values of its inputs decide its control flow ({operator})"
    assert info["errors"] == 0
    assert set(info["batch_rows"][::2]) == {1}


def test_a_request_that_fails_alone_fails_in_company(client: Client, front_door: FrontDoor) -> None:
    _torch()
    source = "def forward(self, x):\n    if bool(x.sum() > 0):\n        return x * 2\n    raise Exception('below 0')"
    client.modelstore("m", "TORCH", "CPU", torch_script(source), batch=8, minbatch=4, minbatchtimeout=300)
    for bad in (None, None, 0, 3):
        inputs = [-x if at == bad else x * 3 for at, x in enumerate(USUAL)]
        for at, (result, x) in enumerate(zip(_together(front_door.port, inputs), inputs, strict=True)):
            if at == bad:
                assert isinstance(result, str)
                assert "below 0" in result
            else:
                assert np.array_equal(result, x * 2)


def _traced() -> bytes:
    """Its graph makes tensors of sizes, and numbers of them again."""
    torch = _torch()

    class Flattens(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: Any) -> Any:
            return -x.reshape(x.shape[0] * x.shape[1]).view(x.shape[0], -1)

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Flattens(), torch.ones(2, 3))
    assert "NumToTensor" in str(traced.inlined_graph)
    torch.jit.save(traced, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("backend", "make"), [("ONNX", onnx_branch_on_size), ("TORCH", _traced)], ids=["branch on a size", "traced sizes"]
)
def test_what_sizes_alone_decide_is_merged(
    backend: str, make: Callable[[], bytes], client: Client, front_door: FrontDoor
) -> None:
    client.modelstore("m", backend, "CPU", make(), batch=8, minbatch=4, minbatchtimeout=300)
    for _ in range(4):
        for result, x in zip(_together(front_door.port, USUAL), USUAL, strict=True):
            assert np.array_equal(result, -x)
    info = client.infoget("m", full=True)
    assert info["not_merged"] == ""
    assert max(info["batch_rows"][::2]) > 1
