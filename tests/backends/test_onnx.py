"""ONNX: RedisAI's and ONNX Runtime's texts, element types, termination, the memory limit, the bound way to run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from redisai_py.backend import DeviceArray, LoadOptions, Session
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from scripts import make_models
from tests.backends.conftest import Models, as_input

pytest.importorskip("onnxruntime", reason="ONNX: onnxruntime is not installed")
pytest.importorskip("onnx", reason="ONNX: onnx, which builds the models, is not installed")

from redisai_py_onnx import OnnxBackend
from redisai_py_onnx._external_data import has_external_data
from redisai_py_onnx._session import OnnxSession

CPU = Device.parse(b"CPU")
ONE_THREAD = LoadOptions(intra_op_threads=1)


def load(blob: bytes, options: LoadOptions = ONE_THREAD) -> OnnxSession:
    return OnnxBackend().load_model(blob, CPU, (), (), options)


def texts(*elements: bytes) -> Any:
    return as_input(np.array(elements, object))


def test_gpu_without_cuda_is_refused_at_store_time(models: Models) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(BackendError) as caught:
        OnnxBackend().load_model(models("onnx_mul.onnx"), Device.parse(b"GPU:0"), (), (), ONE_THREAD)
    assert str(caught.value) == "ERR GPU requested but ONNX couldn't find CUDA"


def test_input_count_text(models: Models) -> None:
    session = load(models("onnx_add.onnx"))
    with pytest.raises(BackendError) as caught:
        session.run([np.ones((1, 2), np.float32)])
    assert str(caught.value) == "ERR Expected 2 inputs but got 1"


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones((1, 2)), "Unexpected input data type. Actual: (tensor(double)) , expected: (tensor(float))"),
        (np.ones(2, np.float32), "Invalid rank for input: x Got: 1 Expected: 2"),
        (np.ones((1, 3), np.float32), "Got invalid dimensions for input: x"),
    ],
)
def test_texts_are_onnx_runtimes_without_its_prefix(models: Models, array: Any, text: str) -> None:
    with pytest.raises(BackendError) as caught:
        load(models("onnx_mul.onnx")).run([array])
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("blob", [b"", b"\x08\x08"])
def test_blob_without_a_graph(blob: bytes) -> None:
    with pytest.raises(BackendError, match=r"^No graph was found in the protobuf\.$"):
        load(blob)


def test_names_shapes_and_dtypes_are_the_models(models: Models) -> None:
    session = load(models("onnx_iris.onnx"))
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [("x", np.dtype("f4"), (None, 4))]
    assert list(session.outputs) == ["label", "probabilities"]


def test_scikit_learn_classifier(models: Models) -> None:
    features = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)  # setosa, virginica
    label, probabilities = load(models("onnx_iris.onnx")).run([features])
    np.testing.assert_array_equal(label, [0, 2])
    assert isinstance(probabilities, np.ndarray)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_output_that_is_no_tensor_is_absent(models: Models) -> None:
    label, maps = load(models("onnx_iris_zipmap.onnx")).run([np.ones((2, 4), np.float32)])
    assert isinstance(label, np.ndarray)
    assert label.shape == (2,)
    assert maps is None


@pytest.mark.parametrize(
    "name",
    [
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "BFLOAT16",
        "BOOL",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
    ],
)
def test_every_numeric_type_passes_unchanged(name: str) -> None:
    dtype = {"FLOAT": "f4", "DOUBLE": "f8", "BFLOAT16": ml_dtypes.bfloat16}.get(name, name.lower())
    array = as_input(np.array([0, 1, 100]).astype(dtype))
    (output,) = load(make_models.build_onnx_identity(name)).run([array])
    assert isinstance(output, np.ndarray)
    assert output.dtype == np.dtype(dtype)
    assert output.tobytes() == array.tobytes()
    assert not np.shares_memory(output, array)


def test_bfloat16_model_refuses_other_types() -> None:
    session = load(make_models.build_onnx_identity("BFLOAT16"))
    for wrong in (np.ones(2, np.float32), texts(b"a")):
        with pytest.raises(BackendError):
            session.run([wrong])


def test_bfloat16_is_named_where_a_model_takes_another_type(models: Models) -> None:
    with pytest.raises(BackendError) as error:
        load(models("onnx_mul.onnx")).run([as_input(np.ones((1, 2), ml_dtypes.bfloat16))])
    assert str(error.value) == "Unexpected input data type. Actual: (tensor(bfloat16)) , expected: (tensor(float))"


def test_strings(models: Models) -> None:
    session = load(models("onnx_string_identity.onnx"))
    array = texts(b"plain", "Grüße".encode(), b"with space")
    (output,) = session.run([array])
    assert isinstance(output, np.ndarray)
    assert output.tolist() == array.tolist()


def test_string_that_is_not_utf8_is_refused_by_name(models: Models) -> None:
    with pytest.raises(BackendError, match=r"^ERR STRING input x is not UTF-8"):
        load(models("onnx_string_identity.onnx")).run([texts(b"\xff\xfe")])


def test_terminate_ends_a_run_and_leaves_the_next_alone() -> None:
    session = load(make_models.build_onnx_heavy(1_000_000))
    errors: list[str] = []

    def run() -> None:
        try:
            session.run([np.ones((1, 2), np.float32)])
        except BackendError as error:
            errors.append(str(error))

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        while not session.terminate():  # until the run has begun
            assert thread.is_alive()
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(errors) == 2
    for text in errors:
        assert "Exiting due to terminate flag being set to true" in text


def test_terminate_ends_the_run_of_one_thread_and_leaves_the_one_beside_it() -> None:
    session = load(make_models.build_onnx_heavy(1_000_000))
    ended: list[int] = []

    def run() -> None:
        with pytest.raises(BackendError, match="terminate flag"):
            session.run([np.ones((1, 2), np.float32)])
        ended.append(threading.get_ident())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(session._run_options) <= number:
            assert thread.is_alive()
    assert session.terminate(threads[0].ident)
    threads[0].join(timeout=30)
    assert ended == [threads[0].ident]
    assert threads[1].is_alive()
    assert not session.terminate(threads[0].ident)
    assert session.terminate()
    threads[1].join(timeout=30)
    assert len(ended) == 2


def test_heavy_model_is_the_identity() -> None:
    (output,) = load(make_models.build_onnx_heavy(10)).run([np.array([[3, 4]], np.float32)])
    np.testing.assert_array_equal(output, [[3, 4]])


def test_memory_limit_ends_a_run() -> None:
    session = load(
        make_models.build_onnx_large_output(1_000_000), LoadOptions(intra_op_threads=1, memory_limit_bytes=1_000_000)
    )
    with pytest.raises(BackendError) as caught:
        session.run([np.ones(1, np.float32)])
    assert "Onnxruntime memory limit exceeded, memory allocation failed." in str(caught.value)
    assert "/" not in str(caught.value)  # no paths of ONNX Runtime's build


def test_memory_limit_counts_weights_of_all_loaded_models(models: Models) -> None:
    backend = OnnxBackend()
    blob = models("onnx_mlp.onnx")
    options = LoadOptions(intra_op_threads=1, memory_limit_bytes=int(1.5 * len(blob)))
    first = backend.load_model(blob, CPU, (), (), options)
    text = "Exception during initialization: Onnxruntime memory limit exceeded, memory allocation failed."
    with pytest.raises(BackendError) as caught:
        backend.load_model(blob, CPU, (), (), options)
    assert str(caught.value) == text
    first.close()
    with pytest.raises(BackendError):
        backend.load_model(blob[:-100], CPU, (), (), options)  # a failed load gives its share back
    backend.load_model(blob, CPU, (), (), options).close()


def test_weights_in_other_files_are_refused(models: Models) -> None:
    with pytest.raises(BackendError, match=r"^Initializer tensors with external data is not allowed\.$"):
        load(models("onnx_external_data.onnx"))


def test_external_data_is_found_wherever_a_tensor_may_be() -> None:
    """In an initializer, a node's attribute, a nested graph, a sparse tensor and a function."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    sparse = onnx.SparseTensorProto(values=tensor)
    attributes = [
        onnx.AttributeProto(t=tensor),
        onnx.AttributeProto(tensors=[onnx.TensorProto(), tensor]),
        onnx.AttributeProto(sparse_tensor=sparse),
        onnx.AttributeProto(sparse_tensors=[onnx.SparseTensorProto(indices=tensor)]),
        onnx.AttributeProto(g=onnx.GraphProto(initializer=[tensor])),
        onnx.AttributeProto(graphs=[onnx.GraphProto(sparse_initializer=[sparse])]),
    ]
    graphs = [onnx.GraphProto(initializer=[tensor])]
    graphs += [onnx.GraphProto(node=[onnx.NodeProto(attribute=[attribute])]) for attribute in attributes]
    models = [onnx.ModelProto(graph=graph) for graph in graphs]
    models += [onnx.ModelProto(functions=[onnx.FunctionProto(node=graph.node)]) for graph in graphs[1:]]
    models.append(onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=graphs[0])]))
    for model in models:
        assert has_external_data(model.SerializeToString()), model


@pytest.mark.parametrize("name", ["onnx_mul.onnx", "onnx_mlp.onnx", "onnx_heavy.onnx", "onnx_iris.onnx"])
def test_ordinary_models_have_no_external_data(models: Models, name: str) -> None:
    assert not has_external_data(models(name))


@pytest.mark.parametrize("blob", [b"\xff" * 20, b"\x3a\x7f", b"\x0b", b"\x80"])
def test_scan_refuses_what_is_not_protobuf(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        has_external_data(blob)


def test_a_forest_of_decision_trees_is_looked_through() -> None:
    """It has each number in a field of its own: five million of them here, of all the types that numbers have."""
    onnx = pytest.importorskip("onnx")
    attributes = [onnx.AttributeProto(ints=range(2_500_000)), onnx.AttributeProto(floats=[0.5] * 2_500_000)]
    forest = [onnx.NodeProto(attribute=[attribute]) for attribute in attributes]
    assert not has_external_data(onnx.ModelProto(graph=onnx.GraphProto(node=forest)).SerializeToString())
    external = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    forest.append(onnx.NodeProto(attribute=[onnx.AttributeProto(ints=range(100_000), t=external)]))
    assert has_external_data(onnx.ModelProto(graph=onnx.GraphProto(node=forest)).SerializeToString())


def _number(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _number(rest) if rest else bytes([low])


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


_EXTERNAL = b"\x70\x01"  # TensorProto.data_location = EXTERNAL


@pytest.mark.parametrize(
    ("before", "location"),
    [
        (b"", _EXTERNAL),
        (b"", b"\x70" + _number(1 << 32 | 1)),
        (b"", _number(1 << 34 | 0x70) + b"\x01"),
        (b"", b"\xf0\x80\x00\x01"),
        (_number(99 << 3 | 3) + _number(99 << 3 | 4), _EXTERNAL),
        (b"\x12\x00" * 3_100_000, _EXTERNAL),
    ],
    ids=[
        "plain",
        "33 bits of value",
        "35 bits of key",
        "a key with a zero at its end",
        "after a group",
        "after very many",
    ],
)
def test_weights_in_other_files_cannot_be_hidden(before: bytes, location: bytes) -> None:
    """Protobuf drops what is above 32 bits and skips groups; ONNX Runtime must not see what was not looked through."""
    entries = [("location", "weights.bin"), ("offset", "0"), ("length", "16")]
    external = b"".join(_field(13, _field(1, key.encode()) + _field(2, text.encode())) for key, text in entries)
    tensor = b"\x08\x04\x10\x01" + _field(8, b"w") + external + location
    blob = before + b"\x08\x08" + _field(7, _field(5, tensor) + _field(2, b"g"))
    with pytest.raises(BackendError, match=r"external data is not allowed|protobuf parsing failed: "):
        load(blob)


def bound(blob: bytes) -> OnnxSession:
    """A session that runs through OrtValues and an IO binding as one on a GPU does, here on the CPU."""
    session = load(blob)
    session.bound = True
    return session


def test_bound_runs_equal_plain_ones(models: Models) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((3, 2), np.float32)]
    (plain,), (output,) = load(models("onnx_add.onnx")).run(arrays), bound(models("onnx_add.onnx")).run(arrays)
    np.testing.assert_array_equal(output, plain)
    label, maps = bound(models("onnx_iris_zipmap.onnx")).run([np.ones((2, 4), np.float32)])
    assert isinstance(label, np.ndarray)
    assert maps is None


def test_output_kept_on_the_device_feeds_the_next_run(models: Models) -> None:
    session: Session = bound(models("onnx_mul.onnx"))
    (kept,) = session.run([np.array([[1, 2]], np.float32)], keep_on_device=True)
    assert isinstance(kept, DeviceArray)
    assert not isinstance(kept, np.ndarray)
    assert (kept.shape, kept.nbytes) == ((1, 2), 8)
    (output,) = session.run([kept])
    np.testing.assert_array_equal(output, [[4, 8]])
    session.close()  # the kept output outlives the session that made it
    host = kept.numpy()
    np.testing.assert_array_equal(host, [[2, 4]])
    np.testing.assert_array_equal(np.from_dlpack(kept), host)


def test_bound_run_takes_arrays_of_other_frameworks(models: Models) -> None:
    torch = pytest.importorskip("torch")
    from redisai_py_torch._convert import TorchDeviceArray

    (output,) = bound(models("onnx_mul.onnx")).run([TorchDeviceArray(torch.ones(1, 2))])
    np.testing.assert_array_equal(output, [[2, 2]])


@pytest.mark.parametrize(
    "blob", [b"\xff" * 2_000_000, b"\x08" + b"\xff" * 2_000_000, b"\x12\x00" * 4_000_000, b"\x3a\xff" * 1_000_000]
)
def test_numbers_and_fields_without_end_are_refused_in_linear_time(blob: bytes) -> None:
    """A number of 20 MB took hours and both loader threads."""
    with pytest.raises(ValueError, match=r"number|fields|field"):
        has_external_data(blob)


def test_nothing_is_reported_and_no_file_shared(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps a file in the user's cache, whose lock an import may wait for."""
    program = "import redisai_py_onnx, onnxruntime; onnxruntime.get_available_providers()"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
