"""Which models let values of their inputs decide what is executed: their runs are never merged with those of others."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redisai_py.backend import LoadOptions, load_backend, what_branches
from redisai_py.tensor import Device
from scripts.make_models import torch_script
from tests.backends.conftest import as_input
from tests.backends.test_state import load

X = as_input(np.arange(1, 7, dtype=np.float32).reshape(2, 3))

WRITES = "y = torch.zeros(3)\ny[0].copy_(x.sum())\nif bool(y[0] > 0):\n    x = -x\nreturn x"
APPENDS = "l = [torch.zeros(1)]\nl.append(x)\nif bool(l[1].sum()):\n    x = -x\nreturn x"
SCRIPTS = {
    "a branch on a sum": ("if bool(x.sum() > 0):\n    return x * 2\nraise Exception('no')", "aten::Bool"),
    "a branch on an item": ("y = x * 2\nif y.max().item() > 3:\n    y = y + 1\nreturn y", "aten::item"),
    "a while": ("while bool(x.sum() < 100):\n    x = x * 2\nreturn x", "aten::Bool"),
    "a number of rounds": ("for _ in range(int(x.max())):\n    x = x + 1\nreturn x", "aten::Int"),
    "a slice's end": ("return x * x[:, :int(x.max())].sum()", "aten::Int"),
    "a factor": ("return x * float(x.max())", "aten::Float"),
    "equal": ("if torch.equal(x, x * 0):\n    x = x + 1\nreturn x", "aten::equal"),
    "all elements": ("if torch.allclose(x, x * 0):\n    x = x + 1\nreturn x", "aten::allclose"),
    "written in place": (WRITES, "aten::Bool"),
    "written in a list": (APPENDS, "aten::Bool"),
    "a number of hits": ("if x[x > 3].size(0) > 2:\n    x = x + 1\nreturn x", "prim::If"),
    "rows of nonzero": ("if torch.nonzero(x).size(0) > 2:\n    x = x + 1\nreturn x", "prim::If"),
    "a tuple": ("a, n = (x, bool(x.sum() > 0))\nif n:\n    a = a + 1\nreturn a", "aten::Bool"),
    "in a loop": ("for _ in range(2):\n    if bool(x.sum() > 0):\n        x = x + 1\nreturn x", "aten::Bool"),
    "sizes": ("if x.size(0) > 1 and x.numel() > 2 and x.dim() == 2:\n    x = x + 1\nreturn x", ""),
    "a size in a tuple": ("a, n = (x, x.size(0))\nif n > 1:\n    a = a + 1\nreturn a", ""),
    "rounds by size": ("for i in range(x.size(1)):\n    x = x + i\nreturn x", ""),
    "a constant": ("y = torch.ones(3)\nif bool(y.sum() > 2):\n    x = x + 1\nreturn x", ""),
    "a tensor of sizes": ("y = torch.zeros_like(x)\nif bool(y.sum() > 2):\n    x = x + 1\nreturn x", ""),
    "dtype and device": ("if x.dtype == torch.float32 and x.device == torch.device('cpu'):\n    x = -x\nreturn x", ""),
    "an own part": ("y = torch.jit.annotate(Optional[Tensor], None)\nif y is not None:\n    x = x + y\nreturn x", ""),
    "a mask that is filled": ("y = x * 1\ny[y > 3] = 0\nreturn y.view(y.size(0), -1)", ""),
    "where": ("return torch.where(x > 3, x, -x)", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_torchscript(name: str) -> None:
    pytest.importorskip("torch", reason="TORCH: torch is not installed")
    body, deciding = SCRIPTS[name]
    source = "def forward(self, x):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    session = load("TORCH", torch_script(source))
    assert what_branches(session) == deciding
    assert len(session.run([X])) == 1


def _torch_modules() -> dict[str, tuple[Callable[[], Any], str]]:
    torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

    class Chooses(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,))

    class Doubles(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.while_loop(lambda y: y.sum() < 100, lambda y: (y * 2,), (x,))[0]

    class Scales(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.max().item()

    class Flattens(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(x.shape[0] * x.shape[1]).view(x.shape[0], -1) / x.shape[1]

    class Chosen(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 1
            y[y > 3] = 0
            return torch.cond(torch.ones(1).sum() > 0, lambda y: y * 2, lambda y: y - 1, (y,))

    class Recurrent(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LSTM(3, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.unsqueeze(1))[0].squeeze(1)

    encoder = torch.nn.TransformerEncoderLayer
    return {
        "chooses": (Chooses, "torch.cond"),
        "doubles": (Doubles, "while_loop"),
        "scales": (Scales, "aten::item"),
        "flattens": (Flattens, ""),
        "chosen": (Chosen, ""),
        "lstm": (Recurrent, ""),
        "transformer": (lambda: encoder(3, 1, 8, batch_first=True).eval(), ""),
        "mlp": (
            lambda: torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU()).eval(),
            "",
        ),
    }


TORCH = [
    ("export", "chooses"), ("export", "doubles"), ("export", "scales"), ("export", "flattens"), ("export", "chosen"),
    ("export", "lstm"), ("export", "mlp"), ("trace", "flattens"), ("trace", "lstm"), ("trace", "transformer"),
    ("trace", "mlp"), ("script", "flattens"), ("script", "lstm"), ("script", "mlp"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "name"), TORCH)
def test_torch_modules(form: str, name: str) -> None:
    make, deciding = _torch_modules()[name]
    import torch

    sample = torch.from_numpy(np.array(X))
    if name == "transformer":
        sample = sample.view(2, 1, 3)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "export":
            torch.export.save(torch.export.export(make(), (sample,)), file)
        else:
            program = torch.jit.script(make()) if form == "script" else torch.jit.trace(make(), sample)
            torch.jit.save(program, file)
        session = load("TORCH", file.getvalue())
    assert what_branches(session) == deciding


def onnx_model(nodes: Sequence[Any], functions: Sequence[Any] = (), **constants: Any) -> bytes:
    """`x` (n, 3) -> `y`. nodes: of `_node`."""
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    helper = onnx.helper
    weights = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(list(nodes), "g", [value("x", 1, ["n", 3])], [value("y", 1, None)], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **more: Any) -> Any:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    return onnx.helper.make_node(kind, inputs, outputs, **more)


def _graph(nodes: Sequence[Any], outputs: Sequence[tuple[str, int]], inputs: Sequence[tuple[str, int]] = ()) -> Any:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    value = onnx.helper.make_tensor_value_info
    make = onnx.helper.make_graph
    ins, outs = ([value(*it, None if it[1] == 1 else []) for it in values] for values in (inputs, outputs))
    return make(nodes, "inner", ins, outs)


def _if(condition: str) -> Any:
    sides = {
        "then_branch": _graph([_node("Add", ["x", "x"], ["a"])], [("a", 1)]),
        "else_branch": _graph([_node("Neg", ["x"], ["b"])], [("b", 1)]),
    }
    return _node("If", [condition], ["y"], **sides)


def _sum_is_large(source: str = "x") -> list[Any]:
    return [_node("ReduceSum", [source], ["s"], keepdims=0), _node("Greater", ["s", "limit"], ["c"])]


def _count_is_large(source: str) -> list[Any]:
    return [_node("Size", [source], ["k"]), _node("Greater", ["k", "three"], ["c"])]


def _loop(rounds: str, goes_on: Sequence[Any] = ()) -> Any:
    """`v` doubles in each round."""
    goes_on = goes_on or [_node("Identity", ["c0"], ["c"])]
    body = _graph([_node("Add", ["v", "v"], ["w"]), *goes_on], [("c", 9), ("w", 1)], [("i", 7), ("c0", 9), ("v", 1)])
    return _node("Loop", [rounds, "yes", "x"], ["y"], body=body)


def onnx_branch(limit: float) -> bytes:
    """Twice `x` if the sum of all elements exceeds the limit; otherwise -`x`."""
    return onnx_model([*_sum_is_large(), _if("c")], limit=np.float32(limit))


def onnx_branch_on_size() -> bytes:
    """-`x`, unless it has no elements."""
    nodes = [_node("Size", ["x"], ["k"]), _node("Less", ["k", "one"], ["c"]), _if("c")]
    return onnx_model(nodes, one=np.int64(1))


def _in_function() -> bytes:
    onnx = pytest.importorskip("onnx", reason="ONNX: onnx is not installed")
    limit = _node("Constant", [], ["limit"], value_float=1.0)
    opset = [onnx.helper.make_opsetid("", 17)]
    function = onnx.helper.make_function("own", "Choose", ["x"], ["y"], [limit, *_sum_is_large(), _if("c")], opset)
    return onnx_model([_node("Choose", ["x"], ["y"], domain="own")], [function])


def _scan(inner: Sequence[Any]) -> bytes:
    """Over time, which is dimension 1: the sum of what `inner` makes `z` of `row`."""
    body = _graph(
        [*inner, _node("Add", ["h", "z"], ["g"]), _node("Identity", ["g"], ["o"])],
        [("g", 1), ("o", 1)],
        [("h", 1), ("row", 1)],
    )
    nodes = [
        _node("Transpose", ["x"], ["t"], perm=[1, 0]),
        _node("Scan", ["h0", "t"], ["last", "all"], body=body, num_scan_inputs=1),
        _node("ReduceSum", ["all"], ["y"], keepdims=0),
    ]
    return onnx_model(nodes, h0=np.zeros(2, np.float32), limit=np.float32(1))


def _chosen_in_scan() -> bytes:
    sides = {
        "then_branch": _graph([_node("Add", ["row", "row"], ["a"])], [("a", 1)]),
        "else_branch": _graph([_node("Neg", ["row"], ["b"])], [("b", 1)]),
    }
    return _scan([*_sum_is_large("row"), _node("If", ["c"], ["z"], **sides)])


CONSTANTS = {"limit": np.float32(1), "three": np.int64(3), "yes": np.bool_(True), "hundred": np.float32(100)}
ONNX: dict[str, tuple[Callable[[], bytes], str]] = {
    "a branch on a sum": (lambda: onnx_branch(1.0), "If"),
    "a branch on the number of hits": (
        lambda: onnx_model([_node("NonZero", ["x"], ["z"]), *_count_is_large("z"), _if("c")], **CONSTANTS),
        "If",
    ),
    "in a function": (_in_function, "If"),
    "in a scan": (_chosen_in_scan, "If"),
    "a loop until large": (
        lambda: onnx_model(
            [_loop("", [_node("ReduceSum", ["w"], ["s"], keepdims=0), _node("Less", ["s", "hundred"], ["c"])])],
            **CONSTANTS,
        ),
        "Loop",
    ),
    "a number of rounds": (
        lambda: onnx_model(
            [_node("ReduceMax", ["x"], ["m"], keepdims=0), _node("Cast", ["m"], ["n"], to=7), _loop("n")], **CONSTANTS
        ),
        "Loop",
    ),
    "a branch on a size": (onnx_branch_on_size, ""),
    "a branch on a constant": (lambda: onnx_model([_if("yes")], **CONSTANTS), ""),
    "rounds by size": (lambda: onnx_model([_node("Size", ["x"], ["n"]), _loop("n")], **CONSTANTS), ""),
    "a scan": (lambda: _scan([_node("Neg", ["row"], ["z"])]), ""),
    "plain": (lambda: onnx_model([_node("Relu", ["x"], ["y"])]), ""),
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name: str) -> None:
    make, deciding = ONNX[name]
    session = load("ONNX", make())
    assert what_branches(session) == deciding
    session.run([X])


def test_a_branch_on_shapes_that_torch_exports_to_onnx_decides_nothing_by_values() -> None:
    torch = pytest.importorskip("torch", reason="ONNX: torch, which exports the model, is not installed")
    pytest.importorskip("onnx", reason="ONNX: onnx is not installed")

    class Squeezes(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.squeeze(0) * 2.0

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Squeezes())
        axes = {"x": {0: "n", 1: "k"}}
        example = (torch.ones(2, 3),)
        torch.onnx.export(scripted, example, file, input_names=["x"], dynamic_axes=axes, dynamo=False)
    assert b'"\x02If' in file.getvalue()
    assert what_branches(load("ONNX", file.getvalue())) == ""


def _tensorflow_bodies(tf: Any) -> dict[str, tuple[Callable[[Any], Any], str]]:
    def doubled(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1)

    def over_time(x: Any) -> Any:
        """A recurrent layer's loop: `state` adds up what an array of the steps holds."""
        steps = tf.TensorArray(tf.float32, tf.shape(x)[1], element_shape=[None]).unstack(tf.transpose(x))
        start = (tf.constant(0), tf.zeros([tf.shape(x)[0]]))
        return tf.while_loop(lambda i, _: i < tf.shape(x)[1], lambda i, s: (i + 1, s + steps.read(i)), start)[1]

    def until_large(x: Any) -> Any:
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 100, lambda y: (y * 2,), (x,))[0]

    def rounds(x: Any) -> Any:
        count = tf.cast(tf.reduce_max(x), tf.int32)
        return tf.while_loop(lambda i, _: i < count, lambda i, y: (i + 1, y * 2), (tf.constant(0), x))[1]

    def by_hits(x: Any) -> Any:
        return tf.cond(tf.shape(tf.where(x > 2))[0] > 1, lambda: x * 2, lambda: x - 1)

    def by_size(x: Any) -> Any:
        return tf.cond(tf.shape(x)[0] > 1, lambda: x * 2, lambda: x - 1)

    def switched(x: Any) -> Any:
        index = tf.cast(tf.reduce_sum(x), tf.int32)
        return tf.switch_case(index, [lambda: x * 2, lambda: x - 1, lambda: x])

    return {
        "a branch on a sum": (doubled, "If"),
        "a loop until large": (until_large, "While"),
        "a number of rounds": (rounds, "While"),
        "a branch on the number of hits": (by_hits, "If"),
        "a choice of three": (switched, "Case"),
        "in a function": (lambda x: tf.function(doubled, autograph=False)(x) * 1.0, "If"),
        "a branch on a size": (by_size, ""),
        "over time": (over_time, ""),
        "plain": (lambda x: x * 2, ""),
    }


TF = [
    "a branch on a sum", "a loop until large", "a number of rounds", "a branch on the number of hits",
    "a choice of three", "in a function", "a branch on a size", "over time", "plain",
]  # fmt: skip


def _module(tf: Any, body: Callable[[Any], Any]) -> Any:
    class Module(tf.Module):  # type: ignore[misc,name-defined,unused-ignore]
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")], autograph=False)
        def f(self, x: Any) -> Any:
            return {"y": body(x)}

    return Module()


def _told(session: Any, kind: str) -> None:
    """`If` may be called `StatelessIf`, too."""
    names = what_branches(session)
    assert bool(names) is bool(kind), names
    assert kind.upper() in names.upper()
    session.run([X])


@pytest.mark.parametrize("name", TF)
def test_tensorflow_saved_models(name: str) -> None:
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    body, kind = _tensorflow_bodies(tf)[name]
    module, file = _module(tf, body), io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(file, "w") as archive:
        tf.saved_model.save(module, directory, signatures=module.f)
        for path in Path(directory).rglob("*"):
            archive.write(path, path.relative_to(directory))
    _told(load("TF", file.getvalue()), kind)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", TF)
def test_tensorflow_frozen_graphs(name: str, version: int) -> None:
    """Version 1 has `Switch`, and circles in its graph, instead of `If` and `While`."""
    tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")
    body, kind = _tensorflow_bodies(tf)[name]
    (tf.compat.v1.disable_control_flow_v2 if version == 1 else tf.compat.v1.enable_control_flow_v2)()
    try:
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
            tf.identity(body(x), name="y")
    finally:
        tf.compat.v1.enable_control_flow_v2()
    blob = graph.as_graph_def().SerializeToString()
    session = load_backend("TF").load_model(blob, Device.parse(b"CPU"), ("x",), ("y",), LoadOptions())
    _told(session, "Switch" if version == 1 and kind in ("If", "While") and name != "in a function" else kind)


@pytest.mark.parametrize("name", [name for name in TF if name not in ("a choice of three", "in a function")])
def test_tflite(name: str) -> None:
    tf = pytest.importorskip("tensorflow", reason="TFLITE: tensorflow, which builds the model, is not installed")
    pytest.importorskip("ai_edge_litert", reason="TFLITE: ai_edge_litert is not installed")
    body, kind = _tensorflow_bodies(tf)[name]
    module = _module(tf, body)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.f.get_concrete_function()], module)
    _told(load("TFLITE", bytes(converter.convert())), kind)
