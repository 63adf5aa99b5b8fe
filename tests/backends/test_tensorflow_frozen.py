"""TF: large constants of a frozen graph become variables; the answers are those of the constants."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from scripts.make_models import frozen_graph
from tests.backends.conftest import as_input

tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

from redisai_py_tensorflow import TensorflowBackend, _frozen, _wire  # noqa: E402  # after the skip

CPU = Device.parse(b"CPU")
RNG = np.random.default_rng(0)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_frozen, "LARGE", 1024)
    monkeypatch.setattr(_frozen, "LARGE_MODEL", 1024)


def weights(*shape: int, dtype: Any = np.float32) -> Any:
    return tf.constant((RNG.standard_normal(shape) * 0.1).astype(dtype))


def placeholder(*shape: int | None, dtype: Any = None) -> Any:
    return tf.compat.v1.placeholder(dtype or tf.float32, shape, "x")


def layers(tf: Any) -> None:
    hidden = tf.nn.relu(tf.matmul(placeholder(None, 32), tf.identity(weights(32, 64))) + weights(64))
    tf.matmul(hidden, weights(64, 40), name="y")


def convolutions(tf: Any) -> None:
    hidden = tf.nn.bias_add(tf.nn.conv2d(placeholder(None, 8, 8, 4), weights(3, 3, 4, 16), 1, "SAME"), weights(16))
    tf.nn.conv2d(tf.nn.relu(hidden), weights(3, 3, 16, 8), 2, "VALID", name="y")


def scaled_convolution(tf: Any) -> None:
    convolved = tf.nn.conv2d(placeholder(None, 8, 8, 4), weights(3, 3, 4, 16), 1, "SAME")
    tf.nn.relu(convolved * weights(16), name="y")


def scaled_before_convolution(tf: Any) -> None:
    tf.nn.conv2d(placeholder(None, 8, 8, 4) * 3.1, weights(3, 3, 4, 16), 1, "SAME", name="y")


def embedding(tf: Any) -> None:
    tf.gather(weights(100, 8), placeholder(None, dtype=tf.int32), name="y")


def embedding_that_is_a_layer_too(tf: Any) -> None:
    table = weights(50, 16)
    tf.matmul(tf.gather(table, placeholder(None, dtype=tf.int32)), table, transpose_b=True, name="y")


def parts(tf: Any) -> None:
    table = weights(64, 8)
    scaled = placeholder(None, 8) * table[3] + tf.gather(table, 5)
    tf.add(scaled * table[7], table[1:2], name="y")


def product_of_constants(tf: Any) -> None:
    tf.add(placeholder(None, 40), tf.matmul(weights(30, 20), weights(20, 40))[:1], name="y")


def addition(tf: Any) -> None:
    tf.add((placeholder(None, 400) + weights(400)) + weights(400), weights(400), name="y")


def halves(tf: Any) -> None:
    tf.gather(weights(100, 16, dtype=np.float16), placeholder(None, dtype=tf.int32), name="y")


def whole_numbers(tf: Any) -> None:
    tf.gather(tf.constant(np.arange(1000)), placeholder(None, dtype=tf.int32), name="y")


def loop(tf: Any) -> None:
    table, x = weights(40, 40), placeholder(None, 40)
    with tf.compat.v1.Session(graph=tf.compat.v1.get_default_graph()):
        tf.compat.v1.disable_control_flow_v2()
        counted = tf.while_loop(
            lambda i, _: i < 3, lambda i, h: (i + 1, tf.matmul(h, table) + tf.gather(table, i)), (0, x)
        )
        tf.compat.v1.enable_control_flow_v2()
    tf.identity(counted[1], name="y")


FLOATS = [as_input(RNG.standard_normal((3, width)).astype(np.float32)) for width in (32, 8, 40, 400)]
IMAGES = as_input(RNG.standard_normal((2, 8, 8, 4)).astype(np.float32))
ROWS = as_input(np.array([3, 0, 49], np.int32))
CASES: dict[str, tuple[Callable[[Any], None], NDArray[Any], int]] = {
    "layers": (layers, FLOATS[0], 2),
    "convolutions": (convolutions, IMAGES, 2),
    "scaled convolution": (scaled_convolution, IMAGES, 0),
    "scaled before the convolution": (scaled_before_convolution, IMAGES, 0),
    "embedding": (embedding, ROWS, 1),
    "embedding that is a layer, too": (embedding_that_is_a_layer_too, ROWS, 1),
    "parts": (parts, FLOATS[1], 0),  # small ones, which become constants
    "product of constants": (product_of_constants, FLOATS[2], 0),
    "addition": (addition, FLOATS[3], 0),
    "halves": (halves, ROWS, 1),
    "whole numbers": (whole_numbers, ROWS, 0),
    "loop": (loop, FLOATS[2], 1),
}


def run(blob: bytes, x: NDArray[Any], outputs: str = "y") -> list[Any]:
    session = TensorflowBackend().load_model(blob, CPU, ["x"], outputs.split(), LoadOptions())
    assert not session.stateful
    try:
        return session.run([x])
    finally:
        session.close()


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_that_of_the_constants(name: str, request: pytest.FixtureRequest) -> None:
    build, x, variables = CASES[name]
    blob = frozen_graph(build)
    (expected,) = run(blob, x)
    request.getfixturevalue("small_is_large")
    assert len(_frozen.read_frozen(blob, ["y"]).variables) == variables
    (answer,) = run(blob, x)
    assert (answer.dtype, answer.shape) == (expected.dtype, expected.shape)
    if name in ("layers", "embedding that is a layer, too", "loop"):  # products of matrices have several algorithms
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.usefixtures("small_is_large")
def test_a_constant_may_be_an_output() -> None:
    def build(tf: Any) -> None:
        table = tf.constant(np.arange(1000, dtype=np.float32), name="table")
        tf.gather(table, placeholder(None, dtype=tf.int32), name="y")

    rows, table = run(frozen_graph(build), ROWS, "y table")
    np.testing.assert_array_equal(rows, [3, 0, 49])
    np.testing.assert_array_equal(table, np.arange(1000))


@pytest.mark.usefixtures("small_is_large")
def test_any_cut_of_a_graph_is_refused_or_runs() -> None:
    blob = frozen_graph(layers)
    for length in range(0, len(blob), 97):
        with suppress(BackendError):
            run(blob[:length], FLOATS[0])


@pytest.mark.usefixtures("small_is_large")
def test_attributes_that_are_there_twice_count_as_tensorflow_counts_them() -> None:
    node = tf.compat.v1.NodeDef(name="c", op="Const")
    graphs = []
    for value in (1, 2):
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.full(1000, value, np.float32)))
        graphs.append(node.SerializeToString())
    twice = graphs[0] + graphs[1]  # of a field that is there twice, the last one counts
    rest = tf.compat.v1.GraphDef()
    with tf.Graph().as_default() as graph:
        tf.gather(tf.constant(np.zeros(1000, np.float32), name="c"), placeholder(None, dtype=tf.int32), name="y")
        rest.CopyFrom(graph.as_graph_def())
    kept = [other for other in rest.node if other.name != "c"]
    del rest.node[:]
    rest.node.extend(kept)
    size = bytes([len(twice) & 0x7F | 0x80, len(twice) >> 7])
    (rows,) = run(b"\x0a" + size + twice + rest.SerializeToString(), ROWS)
    np.testing.assert_array_equal(rows, [2, 2, 2])


def test_endless_fields_are_given_to_tensorflow_within_seconds() -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="more than"):
        _wire.without(b"\x10\x01" * 32_000_000, (1,), 1)
    assert time.process_time() - began < 10


def test_what_is_left_out_is_where_it_was() -> None:
    blob = frozen_graph(layers)
    text, spans = _wire.without(blob, (1, 5, 2, 8, 4), 1024)
    whole, light = (tf.compat.v1.GraphDef.FromString(data) for data in (blob, text))
    assert len(spans) == 2
    for number, [(start, end)] in spans.items():
        assert light.node[number].attr["value"].tensor.tensor_content == b""
        light.node[number].attr["value"].tensor.tensor_content = blob[start:end]
    assert light == whole


@pytest.mark.usefixtures("small_is_large")
def test_the_memory_of_a_closed_model_is_free_again() -> None:
    def build(tf: Any) -> None:
        tf.gather(tf.constant(np.ones(10_000_000, np.float32)), placeholder(None, dtype=tf.int32), name="y")

    blob = frozen_graph(build)
    run(blob, ROWS)
    before = psutil.Process().memory_info().rss
    for _ in range(5):
        run(blob, ROWS)
    assert psutil.Process().memory_info().rss - before < 2 * len(blob)
