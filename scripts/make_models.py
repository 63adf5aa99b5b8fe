"""Tiny real models, one builder per model, for tests, benchmarks and examples.

Every builder returns the bytes that AI.MODELSTORE takes as BLOB; weights come from a fixed seed, so that two calls give
models that compute the same. A builder imports its framework when called: `build_onnx_*` needs `onnx` only (those of
scikit-learn `sklearn` and `skl2onnx`), `build_torch_*` needs `torch`, `build_tf_*` and `build_tflite_*` `tensorflow`.

From the command line:  python scripts/make_models.py OUTDIR [NAME...]   writes all models, or the named ones.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUILDERS", "frozen_graph", "main", "mlp_weights", "torch_script"]

_OPSET = 17
_IR_VERSION = 8
_FACTOR = 2.0
_MLP_SIZES = (784, 512, 512, 10)
_HEAVY_WIDTH = 256
_NONE: dict[str, NDArray[Any]] = {}


def mlp_weights(sizes: Sequence[int] = _MLP_SIZES) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(weight (n_in, n_out), bias (n_out,)) per layer, float32, the same at every call."""
    rng = np.random.default_rng(0)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        weight = (rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)).astype(np.float32)
        layers.append((weight, (rng.standard_normal(n_out) / 10).astype(np.float32)))
    return layers


# --- ONNX


def _onnx(name: str) -> Any:
    return importlib.import_module(f"onnx.{name}")


def _onnx_model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Mapping[str, NDArray[Any]] = _NONE
) -> bytes:
    """Serialise a graph; `constants` become initializers."""
    helper, numpy_helper = _onnx("helper"), _onnx("numpy_helper")
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "model", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    _onnx("checker").check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _onnx_value(name: str, shape: Sequence[int | str | None], dtype: str = "FLOAT") -> Any:
    helper = _onnx("helper")
    return helper.make_tensor_value_info(name, getattr(importlib.import_module("onnx").TensorProto, dtype), list(shape))


def build_onnx_mul() -> bytes:
    """y = x * 2: `x` float32 (N, 2) -> `y` float32 (N, 2); N is dynamic. The tiny model of tests and benchmarks."""
    node = _onnx("helper").make_node("Mul", ["x", "factor"], ["y"])
    values = [_onnx_value(name, ["N", 2]) for name in "xy"]
    return _onnx_model([node], values[:1], values[1:], {"factor": np.array(_FACTOR, np.float32)})


def build_onnx_add() -> bytes:
    """c = a + b: `a`, `b` float32 (N, 2) -> `c` float32 (N, 2); N is dynamic."""
    node = _onnx("helper").make_node("Add", ["a", "b"], ["c"])
    values = [_onnx_value(name, ["N", 2]) for name in "abc"]
    return _onnx_model([node], values[:2], values[2:])


def build_onnx_mlp() -> bytes:
    """A perceptron 784-512-512-10 with ReLU: `x` float32 (N, 784) -> `y` float32 (N, 10), about 2.7 MB."""
    helper = _onnx("helper")
    layers = mlp_weights()
    nodes, constants, current = [], {}, "x"
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        constants[f"w{i}"], constants[f"b{i}"] = weight, bias
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], ["y" if last else f"h{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            current = f"r{i}"
    inputs, outputs = [_onnx_value("x", ["N", _MLP_SIZES[0]])], [_onnx_value("y", ["N", _MLP_SIZES[-1]])]
    return _onnx_model(nodes, inputs, outputs, constants)


def build_onnx_heavy(iterations: int = 1000) -> bytes:
    """y = x, slowly: `x` float32 (N, 2) -> `y` float32 (N, 2), after `iterations` products of 256x256 matrices.

    They are a Loop, and a run can be terminated between two iterations; one took 0.16 ms on one core of a server. The
    products are of zeros, so the result is exactly x, yet no optimiser can know that: the zeros are computed from x.
    """
    helper = _onnx("helper")
    square = [_HEAVY_WIDTH, _HEAVY_WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep_going"], ["keep_going_out"]),
            helper.make_node("MatMul", ["state", "eye"], ["state_out"]),
        ],
        "body",
        [_onnx_value("i", [], "INT64"), _onnx_value("keep_going", [], "BOOL"), _onnx_value("state", square)],
        [_onnx_value("keep_going_out", [], "BOOL"), _onnx_value("state_out", square)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "square"], ["start"]),
        helper.make_node("Loop", ["trips", "true", "start"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["end_sum"], keepdims=0),
        helper.make_node("Add", ["x", "end_sum"], ["y"]),
    ]
    constants = {
        "zero": np.zeros((), np.float32),
        "true": np.ones((), np.bool_),
        "eye": np.eye(_HEAVY_WIDTH, dtype=np.float32),
        "square": np.array(square, np.int64),
        "trips": np.array(iterations, np.int64),
    }
    return _onnx_model(nodes, [_onnx_value("x", ["N", 2])], [_onnx_value("y", ["N", 2])], constants)


def build_onnx_large_output(elements: int = 64 * 1024 * 1024) -> bytes:
    """y = x repeated: `x` float32 (1,) -> `y` float32 (elements,); a run asks the allocator for 4 * elements bytes."""
    node = _onnx("helper").make_node("Expand", ["x", "shape"], ["y"])
    constants = {"shape": np.array([elements], np.int64)}
    return _onnx_model([node], [_onnx_value("x", [1])], [_onnx_value("y", [elements])], constants)


def build_onnx_identity(dtype: str = "FLOAT") -> bytes:
    """y = x for any ONNX element type (`STRING`, `FLOAT16`, `BFLOAT16`, ...): `x` (N,) -> `y` (N,)."""
    node = _onnx("helper").make_node("Identity", ["x"], ["y"])
    return _onnx_model([node], [_onnx_value("x", ["N"], dtype)], [_onnx_value("y", ["N"], dtype)])


def build_onnx_string_identity() -> bytes:
    """y = x for strings: `x` STRING (N,) -> `y` STRING (N,)."""
    return build_onnx_identity("STRING")


def build_onnx_external_data() -> bytes:
    """y = x + w where w is said to lie in the file `weights.bin`: a model that a server must refuse."""
    onnx = importlib.import_module("onnx")
    node = _onnx("helper").make_node("Add", ["x", "w"], ["y"])
    values = [_onnx_value(name, ["N", 2]) for name in "xy"]
    model = onnx.load_model_from_string(_onnx_model([node], values[:1], values[1:], {"w": np.ones(2, np.float32)}))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "8")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString(deterministic=True))


def _sklearn_iris(zipmap: bool) -> bytes:
    datasets, linear_model = (importlib.import_module(f"sklearn.{name}") for name in ("datasets", "linear_model"))
    skl2onnx = importlib.import_module("skl2onnx")
    float_tensor = importlib.import_module("skl2onnx.common.data_types").FloatTensorType
    features, labels = datasets.load_iris(return_X_y=True)
    classifier = linear_model.LogisticRegression(max_iter=1000).fit(features, labels)
    model = skl2onnx.to_onnx(
        classifier,
        initial_types=[("x", float_tensor([None, 4]))],
        options={id(classifier): {"zipmap": zipmap}},
        target_opset=_OPSET,
    )
    model.graph.name = "iris"  # by default a random one
    return bytes(model.SerializeToString(deterministic=True))


def build_onnx_iris() -> bytes:
    """Logistic regression on iris: `x` float32 (N, 4) -> `label` int64 (N,), `probabilities` float32 (N, 3)."""
    return _sklearn_iris(zipmap=False)


def build_onnx_iris_zipmap() -> bytes:
    """The same, `output_probability` being a sequence of maps, as skl2onnx does by default: not a tensor."""
    return _sklearn_iris(zipmap=True)


# --- PyTorch


def torch_script(source: str, parameters: Mapping[str, NDArray[Any]] = _NONE) -> bytes:
    """Save a module whose methods are given as TorchScript source; `parameters` become its parameters."""
    torch: Any = importlib.import_module("torch")

    class Model(torch.nn.Module):  # type: ignore[misc]  # torch is imported late, so its type is Any
        pass

    model = Model()
    for name, value in parameters.items():
        model.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value), requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript as a whole is deprecated
        module = torch.jit.script(model)
        module.define(f"{source}\n")
        file = io.BytesIO()
        torch.jit.save(module, file)
    return file.getvalue()


def build_torch_mul() -> bytes:
    """TorchScript, a * b: `a`, `b` of any dtype and shape -> one tensor."""
    return torch_script("def forward(self, a, b):\n    return a * b")


def build_torch_multi() -> bytes:
    """TorchScript with two outputs, a tuple (a + b, a - b)."""
    return torch_script("def forward(self, a, b):\n    return a + b, a - b")


def build_torch_mlp() -> bytes:
    """TorchScript, the perceptron 784-512-512-10: `x` float32 (N, 784) -> float32 (N, 10)."""
    layers = mlp_weights()
    parameters = {
        f"{kind}{i}": value for i, layer in enumerate(layers) for kind, value in zip("wb", layer, strict=True)
    }
    steps = [f"x = torch.addmm(self.b{i}, x, self.w{i})" for i in range(len(layers))]
    return torch_script(
        "def forward(self, x):\n    " + "\n    x = torch.relu(x)\n    ".join(steps) + "\n    return x", parameters
    )


def build_torch_export_mul() -> bytes:
    """torch.export archive (.pt2), a * b: `a`, `b` float32 (N, 2) -> float32 (N, 2); N is dynamic."""
    torch: Any = importlib.import_module("torch")

    class Mul(torch.nn.Module):  # type: ignore[misc]  # as above
        def forward(self, a: Any, b: Any) -> Any:
            return a * b

    rows = torch.export.Dim("rows", min=1)
    sample = torch.ones(3, 2)
    program = torch.export.export(Mul(), (sample, sample), dynamic_shapes={"a": {0: rows}, "b": {0: rows}})
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


# --- TensorFlow and TensorFlow Lite


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return importlib.import_module("tensorflow")


def frozen_graph(build: Callable[[Any], object]) -> bytes:
    """Serialise the GraphDef of what `build(tf)` adds to a graph."""
    tf = _tensorflow()
    graph = tf.Graph()
    with graph.as_default():
        build(tf)
    return bytes(graph.as_graph_def().SerializeToString(deterministic=True))


def build_tf_mul() -> bytes:
    """Frozen graph, mul = a * b: `a`, `b` float32 (any, 2) -> `mul`, the same shape."""

    def build(tf: Any) -> None:
        a, b = (tf.compat.v1.placeholder(tf.float32, [None, 2], name=name) for name in "ab")
        tf.multiply(a, b, name="mul")

    return frozen_graph(build)


def build_tf_string_join() -> bytes:
    """Frozen graph, joined = a + b for strings: `a`, `b` STRING of one shape -> `joined`."""

    def build(tf: Any) -> None:
        a, b = (tf.compat.v1.placeholder(tf.string, name=name) for name in "ab")
        tf.strings.join([a, b], name="joined")

    return frozen_graph(build)


def _saved_model(directory: Path) -> None:
    """Write a SavedModel with a variable: signature serving_default, `x` float32 (N, 2) -> `scaled`, `shifted`."""
    tf = _tensorflow()
    module = tf.Module()
    module.factor = tf.Variable(_FACTOR)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def serve(x: Any) -> dict[str, Any]:
        return {"scaled": x * module.factor, "shifted": x + module.factor}

    module.serve = serve
    tf.saved_model.save(module, str(directory), signatures=module.serve)


def build_tf_saved_model_zip() -> bytes:
    """SavedModel as a zip file: `x` float32 (N, 2) -> `scaled` = 2x, `shifted` = x + 2."""
    with tempfile.TemporaryDirectory() as directory:
        _saved_model(Path(directory))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(directory).rglob("*")):
                if path.is_file():
                    archive.writestr(zipfile.ZipInfo(str(path.relative_to(directory))), path.read_bytes())
    return file.getvalue()


def build_tf_saved_model_tar() -> bytes:
    """The same SavedModel as a gzipped tar file whose members lie in one folder."""
    with tempfile.TemporaryDirectory() as directory:
        _saved_model(Path(directory))
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            archive.add(directory, arcname="model")
    return file.getvalue()


def _flatbuffer(function: Callable[..., Any], **inputs: tuple[Sequence[int | None], str]) -> bytes:
    """Convert a function of named inputs (shape, dtype) to TensorFlow Lite."""
    tf = _tensorflow()
    signature = [tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in inputs.items()]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())


def build_tflite_dense() -> bytes:
    """A dense layer with softmax: `x` float32 (N, 4) -> float32 (N, 3)."""
    tf = _tensorflow()
    ((weight, bias),) = mlp_weights((4, 3))
    return _flatbuffer(lambda x: tf.nn.softmax(tf.matmul(x, weight) + bias), x=([None, 4], "float32"))


def build_tflite_mul() -> bytes:
    """a * b: `a`, `b` float32 (N, 2) -> float32 (N, 2)."""
    return _flatbuffer(lambda a, b: a * b, a=([None, 2], "float32"), b=([None, 2], "float32"))


def build_tflite_and() -> bytes:
    """a and b for BOOL: `a`, `b` (N,) -> (N,)."""
    tf = _tensorflow()
    return _flatbuffer(tf.logical_and, a=([None], "bool"), b=([None], "bool"))


def build_tflite_column(dtype: str = "float32") -> bytes:
    """A vector as a column, for any TensorFlow dtype (`string`, `float16`, ...): `x` (N,) -> (N, 1)."""
    tf = _tensorflow()
    return _flatbuffer(lambda x: tf.reshape(x, [-1, 1]), x=([None], dtype))


BUILDERS: dict[str, Callable[[], bytes]] = {
    "onnx_mul.onnx": build_onnx_mul,
    "onnx_add.onnx": build_onnx_add,
    "onnx_mlp.onnx": build_onnx_mlp,
    "onnx_heavy.onnx": build_onnx_heavy,
    "onnx_string_identity.onnx": build_onnx_string_identity,
    "onnx_external_data.onnx": build_onnx_external_data,
    "onnx_iris.onnx": build_onnx_iris,
    "onnx_iris_zipmap.onnx": build_onnx_iris_zipmap,
    "torch_mul.pt": build_torch_mul,
    "torch_multi.pt": build_torch_multi,
    "torch_mlp.pt": build_torch_mlp,
    "torch_export_mul.pt2": build_torch_export_mul,
    "tf_mul.pb": build_tf_mul,
    "tf_string_join.pb": build_tf_string_join,
    "tf_saved_model.zip": build_tf_saved_model_zip,
    "tf_saved_model.tar.gz": build_tf_saved_model_tar,
    "tflite_dense.tflite": build_tflite_dense,
    "tflite_mul.tflite": build_tflite_mul,
    "tflite_and.tflite": build_tflite_and,
}
"""File name -> builder, for every model that needs no argument."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the models into a directory; 0 on success."""
    parser = argparse.ArgumentParser(description="Write tiny real models into a directory.")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="file names, with or without extension; default: all")
    args = parser.parse_args(argv)
    wanted = {*args.names}
    chosen = {name: build for name, build in BUILDERS.items() if not wanted or {name, Path(name).stem} & wanted}
    unknown = wanted - {*chosen} - {Path(name).stem for name in chosen}
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(BUILDERS)}")
    args.outdir.mkdir(parents=True, exist_ok=True)
    for name, build in chosen.items():
        blob = build()
        (args.outdir / name).write_bytes(blob)
        print(f"{args.outdir / name}  {len(blob)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
