"""Training, and exporting the trained model as one ONNX graph from features to predictions."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts import Invalid, NotParity, Predictions, Tolerance
from redisai_py.artifacts.parity import compare
from redisai_py.datasets.layout import Columns
from redisai_py.pipeline.builders import Builder, ExportRefused, Fitted, check_params, load_builder
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.preparation import Preparation
from redisai_py.pipeline.source import Sides, missing

__all__ = ["LABEL", "PROBABILITIES", "VALUE", "Tested", "Trained", "as_labels", "train", "try_out"]

LABEL, PROBABILITIES, VALUE = "label", "probabilities", "value"
_STEPS = 65536.0
"""Probabilities are compared in this many steps. Probabilities that differ only by rounding, as the votes of a forest
often do, then name the same class in every runtime: the first."""
_OLDEST = 13
_BATCH = 4096


@dataclass(frozen=True)
class Trained:
    """A model of one target.   classes: their labels, sorted, int64 or str; None for regression."""

    target: str
    builder: str
    preparation: Preparation
    fitted: Fitted
    classes: NDArray[Any] | None
    rows: int
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """classification or regression."""
        return "regression" if self.classes is None else "classification"

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The trained model's predictions: `label` and `probabilities`, or `value`. Raises: Invalid."""
        return self.outputs(self.preparation.features.tensors(columns))

    def outputs(self, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same, from tensors. Raises: Invalid: the builder returned another shape."""
        matrix = self.preparation.matrix(tensors)
        found = np.asarray(self.fitted.predict(matrix))
        wanted = (len(matrix),) if self.classes is None else (len(matrix), len(self.classes))
        if found.shape != wanted:
            raise Invalid(f"builder {self.builder} predicted the shape {found.shape}, and {wanted} was expected")
        if not np.isfinite(found).all():
            raise Invalid(f"builder {self.builder} predicted values that are not numbers for {self.target}")
        if self.classes is None:
            return {VALUE: found.astype(np.float32)}
        probabilities = found.astype(np.float32)
        return {LABEL: self.classes[np.argmax(np.rint(probabilities * np.float32(_STEPS)), axis=1)],
                PROBABILITIES: probabilities}  # fmt: skip

    def to_onnx(self) -> bytes:
        """The model as one graph from `numbers` and `texts` to predictions. Raises: ExportRefused."""
        import onnx

        try:
            body = onnx.load_from_string(self.fitted.to_onnx())
        except ExportRefused:
            raise
        except Exception as error:
            raise ExportRefused(f"builder {self.builder} cannot export: {type(error).__name__}: {error}") from error
        return _joined(self, body)

    def _repr_html_(self) -> str:
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return html.escape(f"{self.builder} for {self.target}: {self.task}{classes}, {self.rows} rows")


def train(definition: Definition, sides: Sides, target: str | None = None) -> Trained:
    """Train the model of one target, by default the first; rows without a value of it are left out.

    Raises: Invalid: unknown builder or parameter; a single class; values unsuitable for the task.
    """
    target = target or definition.dataset.targets[0]
    name = definition.model.builder
    builder = load_builder(name)
    check_params(name, builder, definition.model.params)
    lacking = missing(np.asarray(sides.train[target]))
    columns = {name: values[~lacking] for name, values in sides.train.items()}
    notes = [f"{int(lacking.sum())} rows for training lack {target} and are left out"] if lacking.any() else []
    if not len(columns[target]):
        raise Invalid(f"no row for training has a value of {target}")
    tensors = sides.features.tensors(columns)
    preparation = Preparation.fit(sides.features, tensors, builder.scaled, definition.model.max_categories)
    goal, classes = _goal(builder, name, target, np.asarray(columns[target]))
    fitted = builder.fit(
        preparation.matrix(tensors),
        goal,
        0 if classes is None else len(classes),
        definition.model.seed,
        definition.model.params,
    )
    notes += [*preparation.notes, *fitted.notes]
    return Trained(target, name, preparation, fitted, classes, len(goal), tuple(notes))


def _goal(builder: Builder, name: str, target: str, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Values to learn, and the classes. Raises: Invalid."""
    if values.ndim != 1:
        raise Invalid(f"target {target} has several values a row; name one column per target")
    if builder.task == "regression":
        if values.dtype.kind not in "biuf":
            raise Invalid(f"target {target} holds {values.dtype.name}; {name} predicts numbers: use a classifier")
        if not np.isfinite(values.astype(np.float64)).all():
            raise Invalid(f"target {target} is infinite in some row")
        return values.astype(np.float64), None
    labels = as_labels(target, values, name)
    classes, codes = np.unique(labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True)
    if labels.dtype.kind == "O":
        classes = classes.astype(object)
    if len(classes) < 2:
        raise Invalid(f"target {target} has one class only, {str(classes[0])!r}; a classifier needs at least two")
    if len(classes) > 2 and len(classes) > len(values) // 2:
        raise Invalid(f"target {target} has {len(classes)} classes in {len(values)} rows: use a regressor")
    return codes.astype(np.int64), classes


def as_labels(target: str, values: NDArray[Any], name: str = "a classifier") -> NDArray[Any]:
    """Values as labels: int64, or str in an object array. Raises: Invalid: fractions or times."""
    if values.dtype.kind in "OUT":
        return np.array([str(value) for value in values.tolist()], object)
    if values.dtype.kind in "biu" or (values.dtype.kind == "f" and (values == np.rint(values)).all()):
        return values.astype(np.int64)
    raise Invalid(f"target {target} holds {values.dtype.name} with fractions; {name} predicts classes: use a regressor")


# -- export ------------------------------------------------------------------------------------------------------------


def _joined(model: Trained, body: Any) -> bytes:
    from onnx import compose, helper

    opsets = {each.domain: each.version for each in body.opset_import}
    version = opsets.setdefault("", opsets.pop("ai.onnx", 17))
    if version < _OLDEST:
        body, version = _newer(model.builder, body, version), _OLDEST
        opsets[""] = version
    opsets["ai.onnx.ml"] = max(2, opsets.get("ai.onnx.ml", 2))
    if len(body.graph.input) - len({i.name for i in body.graph.initializer} & {i.name for i in body.graph.input}) != 1:
        raise ExportRefused(f"builder {model.builder} exports a graph with several inputs; one is needed")
    inside = compose.add_prefix(body, "model/").graph
    inputs, nodes, constants = model.preparation.nodes(inside.input[0].name)
    names = [each.name for each in inside.output]
    found = "model/probabilities" if "model/probabilities" in names else names[0]
    ending, outputs, more = _ending(model, found)
    graph = helper.make_graph(
        [*nodes, *inside.node, *ending], model.target, inputs, outputs, [*constants, *inside.initializer, *more]
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in sorted(opsets.items())],
        functions=list(body.functions),
    )
    made.ir_version = min(max(body.ir_version, 8), 10)  # what ONNX Runtime 1.18 reads
    return bytes(made.SerializeToString(deterministic=True))


def _newer(builder: str, body: Any, version: int) -> Any:
    """The graph, converted to the oldest operator set used here."""
    from onnx import version_converter

    try:
        return version_converter.convert_version(body, _OLDEST)
    except Exception as error:
        raise ExportRefused(
            f"builder {builder} exports operator set {version}, which cannot be brought to {_OLDEST}: {error}"
        ) from error


def _ending(model: Trained, found: str) -> tuple[list[Any], list[Any], list[Any]]:
    from onnx import TensorProto, helper, numpy_helper

    if model.classes is None:
        shape = numpy_helper.from_array(np.array([-1], np.int64), "shape")
        node = helper.make_node("Reshape", [found, "shape"], [VALUE])
        return [node], [helper.make_tensor_value_info(VALUE, TensorProto.FLOAT, ["rows"])], [shape]
    text = model.classes.dtype.kind == "O"
    classes = helper.make_tensor(
        "classes",
        TensorProto.STRING if text else TensorProto.INT64,
        [len(model.classes)],
        cast(Any, [str(name).encode() for name in model.classes] if text else model.classes.tolist()),
    )
    nodes = [
        helper.make_node("Identity", [found], [PROBABILITIES]),
        helper.make_node("Mul", [found, "steps"], ["in steps"]),
        helper.make_node("Round", ["in steps"], ["rounded"]),
        helper.make_node("ArgMax", ["rounded"], ["code"], axis=1, keepdims=0),
        helper.make_node("Gather", ["classes", "code"], [LABEL]),
    ]
    outputs = [
        helper.make_tensor_value_info(LABEL, TensorProto.STRING if text else TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["rows", len(model.classes)]),
    ]
    return nodes, outputs, [classes, numpy_helper.from_array(np.array(_STEPS, np.float32), "steps")]


@dataclass(frozen=True)
class Tested:
    """An exported model that predicted the same as the trained model.

    predictions: of the trained model, for all test rows.   difference: the largest one.
    """

    blob: bytes
    predictions: Predictions
    difference: float


def try_out(model: Trained, columns: Columns, tolerance: float = 1e-5) -> Tested:
    """Export the model and let ONNX Runtime predict all rows.

    Args:   tolerance: of probabilities, or of values divided by their standard deviation. Labels must be equal.
    Raises: NotParity: the exported model predicts something else.   ExportRefused.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would report the model; see redisai_py_onnx
    import onnxruntime

    blob = model.to_onnx()
    tensors = model.preparation.features.tensors(columns)
    expected = model.outputs(tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        rows = len(next(iter(tensors.values())))
        parts = [
            session.run(list(expected), {name: array[at : at + _BATCH] for name, array in tensors.items()})
            for at in range(0, rows, _BATCH)
        ]
    except Exception as error:  # ONNX Runtime's errors have no common base class
        reason = " ".join(str(error).split())[:500]
        raise ExportRefused(f"builder {model.builder} exports what ONNX Runtime refuses: {reason}") from error
    found = {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(expected)}
    spread = float(np.std(expected[VALUE])) or 1.0 if model.classes is None else 1.0
    allowed = Tolerance(tolerance * spread, tolerance * 10 if model.classes is None else 0.0)
    try:
        done = compare(model.target, {name: (expected[name], found[name]) for name in expected}, allowed)
    except NotParity as error:
        raise NotParity(f"the exported model does not predict what the trained one does; {error}") from None
    return Tested(blob, Predictions(tensors, expected), done.difference)
