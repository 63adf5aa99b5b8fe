"""One answer, however it is asked for: alone, in company, in a DAG, by another server, after a restart. The same bits.

Weights and inputs are small whole numbers, so that sums are exact in any order: bits can be compared, not only values.
"""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from redisai_py import Client
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, one_front_door

_RNG = np.random.default_rng(7)
W = _RNG.integers(-3, 4, (4, 3)).astype(np.float32)
B = _RNG.integers(-3, 4, 3).astype(np.float32)
INPUTS = [_RNG.integers(-9, 10, (1 + i % 2, 4)).astype(np.float32) for i in range(4)]
COMPANY = {"batch": 16, "minbatch": 5, "minbatchtimeout": 300}


def _answer(x: NDArray[Any]) -> NDArray[Any]:
    return np.maximum(x @ W + B, 0)


def _onnx_blob(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **constants: Any) -> bytes:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    weights = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ins, outs, **options) for kind, ins, outs, options in nodes],
        "g",
        [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs],
        [onnx.helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in outputs],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def onnx_mlp() -> bytes:
    nodes = [("MatMul", ["x", "w"], ["p"], {}), ("Add", ["p", "b"], ["s"], {}), ("Relu", ["s"], ["y"], {})]
    return _onnx_blob(nodes, [("x", ["n", 4])], [("y", 1, ["n", 3])], w=W, b=B)


def _torch_mlp() -> Any:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")
    linear = torch.nn.Linear(4, 3)
    linear.weight.data, linear.bias.data = torch.from_numpy(W.T.copy()), torch.from_numpy(B.copy())
    return torch, torch.nn.Sequential(linear, torch.nn.ReLU()).eval()


def torch_script_mlp() -> bytes:
    torch, module = _torch_mlp()
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    return file.getvalue()


def torch_export_mlp() -> bytes:
    torch, module = _torch_mlp()
    file = io.BytesIO()
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes={"input": {0: rows}})
    torch.export.save(program, file)
    return file.getvalue()


def _tf_mlp() -> Any:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(W)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def f(self, x: Any) -> Any:
            return {"y": tf.nn.relu(tf.matmul(x, self.w) + B)}

    return tf, Module()


def saved_model_mlp() -> bytes:
    tf, module = _tf_mlp()
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=module.f)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    return file.getvalue()


def frozen_mlp() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        tf.nn.relu(tf.matmul(x, tf.constant(W)) + B, name="y")
    return bytes(graph.as_graph_def().SerializeToString())


def tflite_mlp() -> bytes:
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    tf, module = _tf_mlp()
    blob = tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module).convert()
    return bytes(blob)


NODES = {"frozen graph": {"inputs": ["x"], "outputs": ["y"]}}
HONEST: dict[str, tuple[str, Callable[[], bytes]]] = {
    "ONNX": ("ONNX", onnx_mlp),
    "TorchScript": ("TORCH", torch_script_mlp),
    "torch.export": ("TORCH", torch_export_mlp),
    "SavedModel": ("TF", saved_model_mlp),
    "frozen graph": ("TF", frozen_mlp),
    "TFLite": ("TFLITE", tflite_mlp),
}


@pytest.fixture
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Client]:
    with Client(port=front_door.port) as client:
        yield client


class Second:
    """Another server before the same Redis, and its client. It runs models itself, so that the answers of engine
    processes are compared with those of the server's own.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._start()

    def _start(self) -> None:
        self._door = FrontDoor(Config(redis=self._url, port=0, drain_timeout_s=5, isolation="none"))
        self.port = self._door.port
        self.client = Client(port=self.port)

    def stop(self) -> None:
        self.client.close()
        self._door.stop()

    def restart(self) -> Client:
        """Its client afterwards."""
        self.stop()
        self._start()
        return self.client


@pytest.fixture
def second(redis_server: RedisServer, bare: redis.Redis) -> Iterator[Second]:
    server = Second(redis_server.url)
    yield server
    server.stop()


def _together(port: int, model: str, count: int) -> list[NDArray[Any]]:
    """Run the model on every input at the same moment, each by a client of its own."""
    gate, results = threading.Barrier(count), [np.empty(0)] * count

    def run(at: int) -> None:
        with Client(port=port) as client:
            gate.wait()
            client.modelexecute(model, f"x{at}", f"y{at}")
            results[at] = client.tensorget(f"y{at}")

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _same(results: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> None:
    assert [(r.dtype, r.shape, r.tobytes()) for r in results] == [(e.dtype, e.shape, e.tobytes()) for e in expected]


@one_front_door
@pytest.mark.parametrize("form", HONEST)
def test_the_answer_is_the_same_however_it_is_asked_for(
    form: str, client: Client, second: Second, front_door: FrontDoor
) -> None:
    backend, make = HONEST[form]
    blob = make()
    expected = [_answer(x) for x in INPUTS]
    for at, x in enumerate(INPUTS):
        client.tensorset(f"x{at}", x)
    nodes: dict[str, Any] = NODES.get(form, {})
    client.modelstore("alone", backend, "CPU", blob, **nodes)
    names = range(len(INPUTS))
    for ask in (lambda: client, lambda: second.client, second.restart):  # these two read it anew
        server = ask()
        for at in names:
            server.modelexecute("alone", f"x{at}", f"y{at}")
        _same([client.tensorget(f"y{at}") for at in names], expected)
        dag = server.dag(load=[f"x{at}" for at in names], routing="x0")
        for at in names:
            dag.modelexecute("alone", f"x{at}", f"z{at}").tensorget(f"z{at}")
        _same([reply for reply in dag.execute() if isinstance(reply, np.ndarray)], expected)
    client.modelstore("merged", backend, "CPU", blob, **nodes, **COMPANY)
    for server, port in ((client, front_door.port), (second.client, second.port)):
        for _ in range(4):
            _same(_together(port, "merged", len(INPUTS)), expected)
        info = server.infoget("merged", full=True)
        assert info["not_merged"] == ""
        assert max(info["batch_rows"][::2]) > 2  # rows of a request


RANDOM = np.random.default_rng(3)
GRU_W, GRU_R = (RANDOM.standard_normal((1, 12, width), dtype=np.float32) for width in (3, 4))


def detector() -> bytes:
    nodes = [
        ("ReduceMax", ["x"], ["s"], {"axes": [1], "keepdims": 0}),
        ("Greater", ["s", "half"], ["b"], {}),
        ("Compress", ["x", "b"], ["y"], {"axis": 0}),
    ]
    return _onnx_blob(nodes, [("x", ["n", 3])], [("y", 1, ["k", 3])], half=np.float32(0.5))


def transposer() -> bytes:
    return _onnx_blob([("Transpose", ["x"], ["y"], {"perm": [1, 0]})], [("x", ["n", 3])], [("y", 1, [3, "n"])])


def gru(last: bool) -> Callable[[], bytes]:
    def make() -> bytes:
        outs = ["", "y"] if last else ["y"]
        shape = [1, "b", 4] if last else ["t", 1, "b", 4]
        nodes = [("GRU", ["x", "W", "R"], outs, {"hidden_size": 4})]
        return _onnx_blob(nodes, [("x", ["t", "b", 3])], [("y", 1, shape)], W=GRU_W, R=GRU_R)

    return make


def quantised() -> bytes:
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], {}),
        ("DequantizeLinear", ["q", "scale", "zero"], ["y"], {}),
    ]
    return _onnx_blob(nodes, [("x", ["n", 3])], [("y", 1, ["n", 3])])


DISHONEST = {
    "detector": (detector, (2, 3)),
    "transposer": (transposer, (1, 3)),
    "sequence": (gru(last=False), (5, 1, 3)),
    "last state": (gru(last=True), (5, 1, 3)),
    "quantised": (quantised, (1, 3)),
}


@pytest.mark.parametrize("alike", [True, False], ids=["equal inputs", "other inputs"])
@pytest.mark.parametrize("name", DISHONEST)
def test_a_model_whose_rows_depend_on_each_other_answers_in_company_as_alone(
    name: str, alike: bool, client: Client, front_door: FrontDoor
) -> None:
    make, shape = DISHONEST[name]
    blob = make()
    ort = pytest.importorskip("onnxruntime", reason="ONNX: onnxruntime is not installed")
    session = ort.InferenceSession(blob, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(5)
    inputs = [generator.random(shape, dtype=np.float32) * (1 if alike else 1 + at) for at in range(4)]
    if alike:
        inputs = inputs[:1] * 4
    for at, x in enumerate(inputs):
        client.tensorset(f"x{at}", x)
    client.modelstore("m", "ONNX", "CPU", blob, batch=32, minbatch=2, minbatchtimeout=200)
    expected = [session.run(None, {"x": x})[0] for x in inputs]
    for _ in range(20):  # several front doors may each get too few at once to merge any
        _same(_together(front_door.port, "m", 4), expected)
        info = client.infoget("m", full=True)
        if info["not_merged"]:
            break
    assert info["not_merged"].startswith("merged runs differ from single ones: ")
    assert info["errors"] == 0
    _same(_together(front_door.port, "m", 4), expected)


@one_front_door
def test_a_state_is_one_servers_and_every_run_counts(client: Client, second: Second, front_door: FrontDoor) -> None:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

    class Counter(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            self.n.add_(1)
            return x * 0 + self.n

    file = io.BytesIO()
    torch.export.save(torch.export.export(Counter(), (torch.zeros(1, 1),)), file)
    client.modelstore("m", "TORCH", "CPU", file.getvalue(), **COMPANY)
    for at in range(4):
        client.tensorset(f"x{at}", np.zeros((1, 1), np.float32))
    for ask in (lambda: client, lambda: second.client, second.restart):  # what is loaded anew counts from the beginning
        server = ask()
        for count in (1, 2):
            server.modelexecute("m", "x0", "y")
            assert server.tensorget("y").item() == count
    assert sorted(result.item() for result in _together(front_door.port, "m", 4)) == [3, 4, 5, 6]
    info = client.infoget("m", full=True)
    assert (info["stateful"], info["not_merged"]) == (1, "the model may keep a state from run to run")
