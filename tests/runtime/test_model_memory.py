"""What storing, reading and loading a large model costs in memory: docs/limits.md says how much."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.runtime.serving import Serving
from tests.wire import Wire

MEGABYTE = 1024 * 1024
_WEIGHTS = 50_000_000  # 200 MB, so that what else happens meanwhile is small beside it
_PIECE = 100 * MEGABYTE
_MOST = 2.2


def _torch(weights: int, folder: Path) -> bytes:
    torch = pytest.importorskip("torch")

    class Large(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(weights))

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return x + self.weights[0]

    torch.jit.save(torch.jit.script(Large()), folder / "model.pt")
    return (folder / "model.pt").read_bytes()


def _onnx(weights: int, folder: Path) -> bytes:
    onnx = pytest.importorskip("onnx")
    float32, helper = onnx.TensorProto.FLOAT, onnx.helper
    large = onnx.numpy_helper.from_array(np.random.default_rng(0).random(weights, np.float32), "weights")
    first = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "first")
    nodes = [helper.make_node("Gather", ["weights", "first"], ["w"]), helper.make_node("Add", ["x", "w"], ["y"])]
    values = [helper.make_tensor_value_info(name, float32, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "large", values[:1], values[1:], [large, first])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return model


def _module(weights: int) -> Any:
    tf = pytest.importorskip("tensorflow")

    class Large(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.ones(weights))

        @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x + self.weights[:1]

    return Large()


def _saved_model(weights: int, folder: Path) -> bytes:
    tf = pytest.importorskip("tensorflow")
    tf.saved_model.save(_module(weights), str(folder / "saved"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder / "saved", ".")
    return packed.getvalue()


def _frozen_slice(weights: int, folder: Path) -> bytes:
    tf = pytest.importorskip("tensorflow")
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1], "x")
        tf.add(x, tf.constant(np.ones(weights, np.float32))[:1], name="y")
        frozen: bytes = graph.as_graph_def().SerializeToString()
    return frozen


def _frozen_layers(weights: int, folder: Path) -> bytes:
    tf = pytest.importorskip("tensorflow")
    rng, width = np.random.default_rng(0), max(weights // 2000, 1)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1], "x")
        table = tf.constant(rng.random((width, 1000), np.float32))
        layer = tf.constant(rng.random((1000, width), np.float32))
        row = tf.gather(table, tf.cast(x, tf.int32))
        tf.reduce_sum(tf.nn.relu(tf.matmul(row, layer) + 1), 1, name="y")
        frozen: bytes = graph.as_graph_def().SerializeToString()
    return frozen


def _lite(weights: int, folder: Path) -> bytes:
    tf = pytest.importorskip("tensorflow")
    large = tf.constant(np.random.default_rng(0).random((weights // 1000 or 1, min(weights, 1000)), np.float32))
    function = tf.function(lambda x: tf.linalg.matvec(large, x), [tf.TensorSpec([large.shape[1]], tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converted: bytes = converter.convert()
    return converted


def _memory(server: psutil.Process) -> float:
    """In bytes; what several processes share counts once (PSS of proc_pid_smaps_rollup)."""
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


@contextlib.contextmanager
def _growth(server: psutil.Process) -> Iterator[list[float]]:
    """The most by which the memory of the server and its engine processes grows meanwhile, in bytes."""
    before, most, stop = _memory(server), [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], _memory(server) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("backend", "make", "names"),
    [
        ("TORCH", _torch, ()),
        ("ONNX", _onnx, ()),
        ("TF", _saved_model, ()),
        ("TF", _frozen_slice, ("INPUTS", 1, "x", "OUTPUTS", 1, "y")),
        ("TF", _frozen_layers, ("INPUTS", 1, "x", "OUTPUTS", 1, "y")),
        ("TFLITE", _lite, ()),
    ],
)
def test_a_large_model_costs_little_more_than_twice_its_size(
    serve: Callable[..., Serving],
    tmp_path: Path,
    backend: str,
    make: Callable[[int, Path], bytes],
    names: tuple[Any, ...],
) -> None:
    (tmp_path / "small").mkdir()
    small, blob = make(1, tmp_path / "small"), make(_WEIGHTS, tmp_path)
    pieces = [blob[at : at + _PIECE] for at in range(0, len(blob), _PIECE)]
    figures = {}
    for step in ("storing", "loading"):
        serving = serve("--data-dir", tmp_path / "data")
        server = serving.server()
        with Wire(serving.port) as client:
            client.socket.settimeout(120)
            stored = client("AI.MODELSTORE", "small", backend, "CPU", *names, "BLOB", small)
            assert stored == b"OK"  # the framework is imported
            client("AI.TENSORSET", "x", "FLOAT", 1000 if backend == "TFLITE" else 1)
            with _growth(server) as figures[step]:
                if step == "storing":
                    assert client("AI.MODELSTORE", "large", backend, "CPU", *names, "BLOB", *pieces) == b"OK"
                else:
                    assert client("AI.MODELEXECUTE", "large", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
            if step == "storing":
                with _growth(server) as figures["reading"]:
                    assert client("AI.MODELGET", "large", "BLOB") == blob
        assert serving.stop() == 0
    factors = {step: round(growth[0] / len(blob), 2) for step, growth in figures.items()}
    print(backend, len(blob), factors)
    assert all(0 < factor < _MOST for factor in factors.values()), factors


@pytest.mark.slow
@pytest.mark.parametrize("doors", [1, 2, 4])
def test_a_model_in_an_engine_process_is_held_once(serve: Callable[..., Serving], data_dir: Path, doors: int) -> None:
    serving = serve("--data-dir", data_dir, "--isolation", "all", "--processes", doors)
    blob = _onnx(_WEIGHTS // 2, data_dir)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(serving.client(single_connection_client=True)) for _ in range(doors)]
        for client in clients:  # so that each is at a front door of its own
            client.ping()
        clients[0].execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        idle = _tree_memory(serving)
        clients[0].execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", blob)
        for client in clients:
            for _ in range(20):
                client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        grown = _tree_memory(serving) - idle
        size = len(blob) / MEGABYTE
        print(f"{doors} front doors: idle {idle:.0f} MB, with a model of {size:.0f} MB {grown:.0f} MB more")
        assert grown < 1.6 * size + 60


def _tree_memory(serving: Serving) -> float:
    """All processes but Redis, in MB."""
    children = [child for child in serving.supervisor.children() if "redis-server" not in child.name()]
    return sum(map(_memory, children)) / MEGABYTE
