"""Models that are not one tensor in and one out, over a socket: what is stored runs, and what cannot run says why."""

from __future__ import annotations

import io
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from redisai_py import Client
from tests.support import FrontDoor

onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")


@pytest.fixture
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Client]:
    with Client(port=front_door.port) as client:
        yield client


def _onnx(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, ir_version: int = 9) -> bytes:
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    imports = [onnx.helper.make_opsetid("", opset)]
    return bytes(onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, outputs, **attributes)


def _value(name: str, *shape: Any, dtype: int = 1) -> Any:
    return onnx.helper.make_tensor_value_info(name, dtype, list(shape))


def _saved_model() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def double(self, x: Any) -> Any:
            return {"y": x * 2.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def triple(self, x: Any) -> Any:
            return {"y": x * 3.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="b")])
        def negate(self, b: Any) -> Any:
            return {"minus": -b}

    module = Module()
    signatures = {"serving_default": module.double, "triple": module.triple, "negate": module.negate}
    return _packed(module, signatures)


def _packed(module: Any, signatures: dict[str, Any]) -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=signatures)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    return file.getvalue()


def test_every_signature_of_a_saved_model_is_reached(client: Client) -> None:
    blob = _saved_model()
    client.tensorset("x", np.ones(2, np.float32))
    for options, names, result in (
        ({}, (["x"], ["y"]), 2.0),
        ({"signature": "triple"}, (["x"], ["y"]), 3.0),
        ({"signature": "triple", "inputs": ["x"], "outputs": ["y"]}, (["x"], ["y"]), 3.0),
        ({"inputs": ["b"], "outputs": ["minus"]}, (["b"], ["minus"]), -1.0),
    ):
        client.modelstore("m", "TF", "CPU", blob, **options)  # type: ignore[arg-type]
        meta = client.modelget("m", meta_only=True)
        assert (meta["inputs"], meta["outputs"]) == names
        client.execute_command("COPY", "m", "copy", "REPLACE")  # read and loaded anew
        for key in ("m", "copy"):
            client.modelexecute(key, "x", "y")
            assert client.tensorget("y").tolist() == [result] * 2
    with pytest.raises(redis.ResponseError, match=r"no signature .nope., but: negate, serving_default, triple"):
        client.modelstore("m", "TF", "CPU", blob, signature="nope")


def _lite_with_signatures() -> bytes:
    tf = pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the model, is not installed")
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    spec = tf.TensorSpec([None, 2], tf.float32)

    class Module(tf.Module):  # type: ignore[misc, name-defined, unused-ignore]
        @tf.function(input_signature=[spec])
        def double(self, x: Any) -> Any:
            return {"y": 2 * x}

        @tf.function(input_signature=[spec, spec])
        def divide(self, numerator: Any, denominator: Any) -> Any:
            return {"quotient": numerator / denominator, "alike": tf.equal(numerator, denominator)}

    module = Module()
    with tempfile.TemporaryDirectory() as directory:
        signatures = {"alone": module.double, "divide": module.divide}  # the first one is the main one
        tf.saved_model.save(module, directory, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
        return bytes(converter.convert())


def test_every_signature_of_a_tflite_file_is_reached(client: Client) -> None:
    blob = _lite_with_signatures()
    values = {"numerator": np.array([[6, 3]], np.float32), "denominator": np.array([[2, 3]], np.float32)}
    results = {"quotient": [[3.0, 1.0]], "alike": [[False, True]], "y": [[12.0, 6.0]]}
    for signature in ("divide", "alone"):
        client.modelstore("m", "TFLITE", "CPU", blob, signature=signature)
        client.execute_command("COPY", "m", "copy", "REPLACE")  # read and loaded anew
        meta = client.modelget("m", meta_only=True)
        assert sorted(meta["outputs"]) == (["alike", "quotient"] if signature == "divide" else ["y"])
        for key in ("m", "copy"):
            for rows in (1, 3, 1):
                for name in meta["inputs"]:
                    client.tensorset(name, values.get(name, values["numerator"]).repeat(rows, 0))
                client.modelexecute(key, meta["inputs"], meta["outputs"])
                for name in meta["outputs"]:
                    assert client.tensorget(name).tolist() == results[name] * rows
    with pytest.raises(redis.ResponseError, match=r"no signature .nope., but: alone, divide"):
        client.modelstore("m", "TFLITE", "CPU", blob, signature="nope")
    client.modelstore("m", "TFLITE", "CPU", blob, signature="divide")
    client.tensorset("wide", np.ones((1, 3), np.float32))
    with pytest.raises(redis.ResponseError, match=r"Failed to invoke TfLite: .*not broadcastable"):
        client.modelexecute("m", ["numerator", "wide"], ["q", "a"])
    client.modelexecute("m", ["numerator", "denominator"], ["quotient", "alike"])


def test_a_frozen_graph_may_have_no_inputs(client: Client) -> None:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    with tf.Graph().as_default() as graph:
        tf.add(tf.constant([1.0, 2.0]), 1.0, name="y")
        tf.compat.v1.placeholder(tf.float32, name="x") + graph.get_tensor_by_name("y:0")
    blob = graph.as_graph_def().SerializeToString()
    client.modelstore("m", "TF", "CPU", blob, inputs=[], outputs=["y"])
    client.execute_command("COPY", "m", "copy")
    for key in ("m", "copy"):
        assert client.modelget(key, meta_only=True)["inputs"] == []
        assert client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 0, "OUTPUTS", 1, "y") == b"OK"
        assert client.tensorget("y").tolist() == [2.0, 3.0]
        assert client.execute_command("AI.MODELRUN", key, "INPUTS", "OUTPUTS", "z") == b"OK"
        assert client.tensorget("z").tolist() == [2.0, 3.0]
    with pytest.raises(redis.ResponseError, match='need the input "x", which INPUTS leaves out'):
        client.modelstore("m", "TF", "CPU", blob, inputs=[], outputs=["add"])
    with pytest.raises(redis.ResponseError, match="a frozen graph has no signature"):
        client.execute_command(
            *("AI.MODELSTORE", "m", "TF", "CPU", "SIGNATURE", "s", "INPUTS", 0, "OUTPUTS", 1, "y", "BLOB", blob)
        )


def test_a_frozen_graph_needs_its_names(client: Client) -> None:
    with pytest.raises(redis.ResponseError, match="INPUTS not specified for TF"):
        client.execute_command("AI.MODELSTORE", "m", "TF", "CPU", "BLOB", b"x")


def test_a_model_without_inputs_runs(client: Client) -> None:
    constant = onnx.numpy_helper.from_array(np.arange(3, dtype=np.float32), "c")
    client.modelstore("m", "ONNX", "CPU", _onnx([_node("Constant", [], ["y"], value=constant)], [], [_value("y", 3)]))
    for _ in range(3):  # with the model near, too
        assert client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 1, "y") == b"OK"
    assert client.tensorget("y").tolist() == [0.0, 1.0, 2.0]
    assert client.modelexecute("m", [], "z") == "OK"
    dag = client.execute_command(
        "AI.DAGEXECUTE", "PERSIST", 1, "d", "|>", "AI.MODELEXECUTE", "m", "INPUTS", 0, "OUTPUTS", 1, "d"
    )
    assert dag == [b"OK"]
    assert client.tensorget("d").tolist() == [0.0, 1.0, 2.0]
    client.modelstore("n", "ONNX", "CPU", _onnx([_node("Relu", ["x"], ["y"])], [_value("x", 1)], [_value("y", 1)]))
    with pytest.raises(redis.ResponseError, match="Input count must be a positive integer"):
        client.execute_command("AI.MODELEXECUTE", "n", "INPUTS", 0, "OUTPUTS", 1, "y")


def test_an_output_that_is_no_tensor_leaves_no_old_value(client: Client) -> None:
    sequence = onnx.helper.make_tensor_sequence_value_info("s", 1, ["n"])
    blob = _onnx(
        [_node("Identity", ["x"], ["y"]), _node("SequenceConstruct", ["x", "x"], ["s"])],
        [_value("x", "n")],
        [_value("y", "n"), sequence],
    )
    client.modelstore("m", "ONNX", "CPU", blob)
    client.tensorset("x", np.ones(2, np.float32))
    for _ in range(3):
        client.tensorset("old", np.zeros(1, np.float32))
        assert client.modelexecute("m", "x", ["y", "old"]) == "OK"
        assert client.exists("old") == 0
    client.tensorset("old", np.zeros(1, np.float32))
    client.dag(load="x", persist=["old"], routing="x").modelexecute("m", "x", ["y", "old"]).execute()
    assert client.exists("old") == 0
    client.set("text", "kept")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.modelexecute("m", "x", ["other", "text"])
    assert client.get("text") == b"kept"
    assert client.exists("other") == 0


def test_a_sequence_for_an_input_is_refused_when_the_model_is_stored(client: Client) -> None:
    sequence = onnx.helper.make_tensor_sequence_value_info("s", 1, ["n"])
    blob = _onnx([_node("SequenceLength", ["s"], ["y"])], [sequence], [_value("y", dtype=7)])
    with pytest.raises(redis.ResponseError, match=r"input s is a seq\(tensor\(float\)\), which is not a tensor"):
        client.modelstore("m", "ONNX", "CPU", blob)


def test_numbers_that_no_tensor_has_are_refused_when_the_model_is_stored(client: Client) -> None:
    blob = _onnx([_node("Cast", ["x"], ["y"], to=22)], [_value("x", 2)], [_value("y", 2, dtype=22)], 21, 10)
    with pytest.raises(redis.ResponseError, match=r"output y is a tensor\(int4\), which no tensor here is; cast it"):
        client.modelstore("m", "ONNX", "CPU", blob)


def test_a_model_that_zeros_would_never_end_is_stored_and_runs(client: Client) -> None:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32, name="x")])
        def f(self, x: Any) -> Any:
            return {"y": tf.while_loop(lambda x: tf.reduce_sum(x) < 100, lambda x: [x * 2], [x])[0]}

    module = Module()
    client.modelstore("m", "TF", "CPU", _packed(module, {"serving_default": module.f}))
    client.tensorset("x", np.array([1, 2], np.float32))
    for _ in range(20):
        client.modelexecute("m", "x", "y")
    assert client.tensorget("y").tolist() == [64, 128]


def test_a_wrong_number_of_keys_is_told_with_numbers_and_names(client: Client) -> None:
    blob = _onnx([_node("Add", ["a", "b"], ["c"])], [_value("a", "n"), _value("b", "n")], [_value("c", "n")])
    client.modelstore("m", "ONNX", "CPU", blob)
    client.tensorset("x", np.ones(2, np.float32))
    text = "here does not match model definition: 1 given, 2 expected (a, b)"
    with pytest.raises(redis.ResponseError) as caught:
        client.modelexecute("m", "x", "y")
    assert str(caught.value) == f"Number of keys given as INPUTS {text}"


def test_a_dimension_of_0_is_stored_and_run(client: Client) -> None:
    client.modelstore(
        "m", "ONNX", "CPU", _onnx([_node("Relu", ["x"], ["y"])], [_value("x", "n", 3)], [_value("y", "n", 3)]), batch=8
    )
    client.tensorset("x", np.zeros((0, 3), np.float32))
    assert client.modelexecute("m", "x", "y") == "OK"
    assert client.tensorget("y").shape == (0, 3)
    assert client.execute_command("AI.TENSORSET", "v", "INT64", 0, "VALUES") == b"OK"
    assert client.execute_command("AI.TENSORGET", "v", "META", "VALUES") == [
        b"dtype",
        b"INT64",
        b"shape",
        [0],
        b"values",
        [],
    ]
    for dtype in ("STRING", "BOOL", "FLOAT", "BFLOAT16"):
        for words in (("BLOB", b""), ("VALUES",), ()):
            assert client.execute_command("AI.TENSORSET", "s", dtype, 2, 0, *words) == b"OK"
            reply = client.execute_command("AI.TENSORGET", "s", "META", "VALUES")
            assert reply == [b"dtype", dtype.encode(), b"shape", [2, 0], b"values", []]
            assert client.tensorget("s").shape == (2, 0)


def test_types_and_shapes_of_a_model_are_told(client: Client) -> None:
    value = _value("x", "n", 37, dtype=10)
    client.modelstore(
        "m", "ONNX", "CPU", _onnx([_node("Relu", ["x"], ["y"])], [value], [_value("y", "n", 37, dtype=10)])
    )
    info = client.infoget("m", full=True)
    assert info["inputs"] == [[b"x", b"FLOAT16", [-1, 37]]]
    assert info["outputs"] == [[b"y", b"FLOAT16", [-1, 37]]]
    assert (info["stateful"], info["not_merged"]) == (0, "")


@pytest.mark.parametrize(
    ("backend", "blob", "text"),
    [
        ("TORCH", pickle.dumps({"a": 1}), "these bytes are a pickle; a model is written by"),
        ("ONNX", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file.*keras.saving.load_model"),
        ("ONNX", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (
            "TORCH",
            b"A\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(65) + bytes(4),
            "weights in safetensors",
        ),
    ],
)
def test_bytes_of_another_format_are_recognised(client: Client, backend: str, blob: bytes, text: str) -> None:
    with pytest.raises(redis.ResponseError, match=text):
        client.modelstore("m", backend, "CPU", blob)


def test_an_onnx_model_stored_as_another_backends_is_recognised(client: Client) -> None:
    blob = _onnx([_node("Relu", ["x"], ["y"])], [_value("x", 1)], [_value("y", 1)])
    for backend in ("TORCH", "TFLITE"):
        with pytest.raises(redis.ResponseError, match="these bytes are an ONNX model; store them as ONNX"):
            client.modelstore("m", backend, "CPU", blob)
