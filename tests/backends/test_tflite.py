"""TFLITE: RedisAI's texts for every step, strict types, and the types that we take beyond RedisAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from tests.backends.conftest import Models, as_input

pytest.importorskip("ai_edge_litert", reason="TFLITE: ai-edge-litert is not installed")
pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the models, is not installed")

from redisai_py_tflite import TfliteBackend
from redisai_py_tflite._backend import TfliteSession
from scripts import make_models

CPU = Device.parse(b"CPU")


def load(blob: bytes) -> TfliteSession:
    return TfliteBackend().load_model(blob, CPU, (), (), LoadOptions(intra_op_threads=1))


def error_of(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(BackendError) as caught:
        function(*args)
    return str(caught.value)


def test_gpu_is_refused_at_store_time(models: Models) -> None:
    text = error_of(
        TfliteBackend().load_model, models("tflite_mul.tflite"), Device.parse(b"GPU"), (), (), LoadOptions()
    )
    assert text == "Failed to set GPU delegate"


@pytest.mark.parametrize(
    ("blob", "reason"), [(b"", "it is empty"), (b"garbage" * 20, "The model is not a valid Flatbuffer buffer")]
)
def test_no_flatbuffer(blob: bytes, reason: str) -> None:
    assert error_of(load, blob) == f"Failed to load model from buffer: {reason}"


def test_dense_layer(models: Models) -> None:
    session = load(models("tflite_dense.tflite"))
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [("x", np.float32, (None, 4))]
    ((weight, bias),) = make_models.mlp_weights((4, 3))
    for rows in (1, 3, 2):
        x = as_input(np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) / 10)
        exponent = np.exp(x @ weight + bias)
        np.testing.assert_allclose(session.run([x])[0], exponent / exponent.sum(axis=1, keepdims=True), rtol=1e-5)


def test_the_names_are_those_of_the_signature(models: Models) -> None:
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(
            input_signature=[tf.TensorSpec([1], tf.float32, name="b"), tf.TensorSpec([1], tf.float32, name="a")]
        )
        def f(self, b: Any, a: Any) -> Any:
            return {"second": a - b, "first": a + b}

    module = Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module)
    session = load(converter.convert())
    values = {"a": np.full(1, 3, np.float32), "b": np.full(1, 1, np.float32)}
    outputs = session.run([as_input(values[spec.name]) for spec in session.inputs])
    results = {name: np.asarray(output).item() for name, output in zip(session.outputs, outputs, strict=True)}
    assert results == {"first": 4.0, "second": 2.0}
    assert [spec.name for spec in session.output_specs] == list(session.outputs)


def test_run_texts(models: Models) -> None:
    session = load(models("tflite_dense.tflite"))
    x = as_input(np.ones((2, 4), np.float32))
    assert error_of(session.run, []) == "Inconsistent number of inputs"
    assert error_of(session.run, [x.astype("f8")]) == (
        "Input tensor type doesn't match the type expected by the model definition"
    )
    for _ in range(2):  # the second one must not find the first one's shape in place
        text = error_of(session.run, [as_input(np.ones((2, 5), np.float32))])
        assert text.startswith("Failed to allocate tensors: ")
        assert "failed to prepare" in text
    assert np.asarray(session.run([x])[0]).shape == (2, 3)


def test_bool_inputs_work(models: Models) -> None:
    """RedisAI always refuses them."""
    left, right = as_input(np.array([True, True, False])), as_input(np.array([True, False, False]))
    (output,) = load(models("tflite_and.tflite")).run([left, right])
    assert isinstance(output, np.ndarray)
    assert output.dtype == np.bool_
    assert output.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "string",
    ],
)
def test_every_type_passes_unchanged(dtype: str) -> None:
    values = np.array([b"a", b"bc", b"\xff"], object) if dtype == "string" else np.array([0, 1, 100]).astype(dtype)
    array = as_input(values)
    session = load(make_models.build_tflite_column(dtype))
    assert session.inputs[0].dtype == array.dtype
    (output,) = session.run([array])
    assert isinstance(output, np.ndarray)
    assert output.dtype == array.dtype
    assert output.tolist() == array.reshape(3, 1).tolist()
