"""A large frozen graph with its large constants turned into variables, so that TensorFlow does not copy them
repeatedly.

TensorFlow holds the constants of a GraphDef up to twelve times while it creates a session, and five times afterwards.
So large constants are cut out of the bytes before parsing, and become variables whose values are set from those bytes
(docs/adr/0042).

A constant stays a constant if TensorFlow's optimiser computes with its value, because that changes the last bits of the
outputs.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from redisai_py.backend import Blob, ModelFile
from redisai_py_tensorflow._graph import is_stateful
from redisai_py_tensorflow._wire import Span, without

__all__ = ["LARGE", "LARGE_MODEL", "Frozen", "read_frozen"]

LARGE = 1024 * 1024
LARGE_MODEL = 64 * 1024 * 1024
"""Size in bytes from which constants become variables, in models of at least this size."""

_PIECE = 16 * 1024 * 1024
_CONTENT = (1, 5, 2, 8, 4)
"""GraphDef.node, NodeDef.attr, the entry's value, AttrValue.tensor, TensorProto.tensor_content."""
_WEIGHTS = {dtype.as_datatype_enum: dtype for dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16)}
_CONTROL_FLOW = frozenset({"Enter", "Exit", "Merge", "NextIteration", "Switch"})
_SAME_VALUE = frozenset({"Identity", "Enter"})
_PARTS = frozenset({"Gather", "GatherV2", "GatherNd", "Slice", "StridedSlice"})
_READERS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2"})
_CONVOLUTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput"})
_SCALES = frozenset({"Mul", "MulNoNan", "Div", "RealDiv", "Transpose"})
"""Next to a convolution, these are multiplied into its weights if the weights are constant."""

v1: Any = tf.compat.v1


@dataclass(slots=True)
class Frozen:
    """A graph, and by node name the position of each variable's value in the model's bytes."""

    definition: Any
    variables: dict[str, Span] = field(default_factory=dict)

    def assign(self, session: Any, blob: Blob) -> None:
        """Set the variables. The session's graph contains `definition`."""
        operations: list[Any] = []
        values: dict[Any, Any] = {}
        for name, (start, end) in self.variables.items():
            handle = session.graph.get_operation_by_name(name)
            dtype, shape = tf.as_dtype(handle.get_attr("dtype")), tf.TensorShape(handle.get_attr("shape")).as_list()
            value = v1.placeholder(dtype, shape)
            operations.append(tf.raw_ops.AssignVariableOp(resource=handle.outputs[0], value=value))
            values[value] = _copy(blob, (start, end)).view(dtype.as_numpy_dtype).reshape(shape)
        if operations:
            session.run(operations, values)


def _copy(blob: Blob, span: Span) -> NDArray[np.uint8]:
    """The bytes, in memory that TensorFlow uses in place instead of making its own copy."""
    (start, end), aligned_to = span, 64
    memory = np.empty(end - start + aligned_to, np.uint8)
    first = -memory.ctypes.data % aligned_to
    copied = memory[first : first + end - start]
    for at in range(0, end - start, _PIECE):
        piece = np.frombuffer(memoryview(blob)[start + at : min(start + at + _PIECE, end)], np.uint8)
        copied[at : at + len(piece)] = piece
        del piece
        if isinstance(blob, ModelFile):
            blob.forget_pages()
    return copied


def read_frozen(blob: Blob, outputs: Collection[str]) -> Frozen:
    """Parse a GraphDef.

    Args:   outputs: names of nodes that stay unchanged.
    Raises: google.protobuf.message.DecodeError.
    """
    if len(blob) >= LARGE_MODEL:
        with contextlib.suppress(ValueError):  # TensorFlow decides what else it is
            return _with_variables(blob, outputs)
    frozen = Frozen(v1.GraphDef())
    frozen.definition.ParseFromString(bytes(blob))
    return frozen


def _with_variables(blob: Blob, outputs: Collection[str]) -> Frozen:
    """Raises: ValueError: not a graph as TensorFlow writes it."""
    text, spans = without(blob, _CONTENT, LARGE)
    frozen = Frozen(v1.GraphDef.FromString(text))
    nodes = list(frozen.definition.node)
    uses = _Uses(nodes)
    for number, found in spans.items():
        node, tensor = nodes[number], _constant(nodes[number])
        if tensor is None or tensor.tensor_content or len(found) != 1:
            raise ValueError(f"{node.name} has large attributes that are not its value")
        start, end = found[0]
        if node.name not in outputs and _size(tensor) == end - start and uses.may_be_variable(node):
            name = f"redisai_py_variable_{number}"
            handle = frozen.definition.node.add(name=name, op="VarHandleOp", device=node.device)
            handle.attr["dtype"].type = tensor.dtype
            handle.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
            handle.attr["shared_name"].s = name.encode()
            _become(node, "ReadVariableOp", name, dtype=handle.attr["dtype"])
            frozen.variables[name] = start, end
        else:
            tensor.tensor_content = bytes(memoryview(blob)[start:end])
    parts = [node for node in nodes if uses.is_part(node)]
    if parts:
        _calculate(frozen, parts, blob)
    return frozen


def _calculate(frozen: Frozen, parts: list[Any], blob: Blob) -> None:
    """Turn small slices of variables at constant positions into constants, as TensorFlow does with constants."""
    needed = v1.graph_util.extract_sub_graph(frozen.definition, [node.name for node in parts])
    names = {node.name for node in needed.node}
    variables = {name: span for name, span in frozen.variables.items() if name in names}
    with tf.Graph().as_default() as graph, tf.device("/CPU:0"), v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(needed, name="")
        Frozen(needed, variables).assign(session, blob)
        for node in parts:
            value = session.run(f"{node.name}:0")
            if value.nbytes < LARGE:
                constant = tf.make_tensor_proto(value)
                _become(node, "Const", dtype=v1.AttrValue(type=constant.dtype), value=v1.AttrValue(tensor=constant))
    uses = _Uses(list(frozen.definition.node))
    for name in variables:
        if not any(uses.users(reader) for reader in uses.users(name)):
            del frozen.variables[name]


def _become(node: Any, operation: str, *inputs: str, **attributes: Any) -> None:
    node.op = operation
    del node.input[:]
    node.input.extend(inputs)
    node.attr.clear()
    for name, value in attributes.items():
        node.attr[name].CopyFrom(value)


def _constant(node: Any) -> Any | None:
    """The value of a constant whose value is its only tensor, otherwise None."""
    tensors = [name for name, value in node.attr.items() if value.WhichOneof("value") == "tensor"]
    return node.attr["value"].tensor if node.op == "Const" and tensors == ["value"] else None


def _size(tensor: Any) -> int:
    """Size in bytes of a tensor of weights; -1 for other tensors."""
    if tensor.dtype not in _WEIGHTS:
        return -1
    elements = math.prod(int(dim.size) for dim in tensor.tensor_shape.dim)
    return elements * int(_WEIGHTS[tensor.dtype].size)


class _Uses:
    """Which nodes use which, and which nodes change their value from run to run."""

    def __init__(self, nodes: list[Any]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._users[_producer(name)].append(node)
        self._varying: set[str] = set()
        pending = [node for node in nodes if node.op != "Const" and _may_vary(node)]
        while pending:
            node = pending.pop()
            if node.name not in self._varying:
                self._varying.add(node.name)
                pending.extend(self._users[node.name])

    def users(self, name: str) -> list[str]:
        """Names of the nodes that use a node."""
        return [node.name for node in self._users[name]]

    def may_be_variable(self, constant: Any) -> bool:
        """Whether the constant's users compute the same bits from a variable with its value."""
        if constant.op != "Const" or constant.input:  # with inputs it belongs to the frame of a loop
            return False
        pending, seen = [constant], {constant.name}
        while pending:
            for user in self._users[pending.pop().name]:
                if user.op in _SAME_VALUE:
                    if user.name not in seen:
                        seen.add(user.name)
                        pending.append(user)
                elif not self._only_reads(user):
                    return False
        return True

    def is_part(self, node: Any) -> bool:
        """Whether the node reads a slice of a variable at a constant position."""
        if node.op not in _PARTS or node.name in self._varying:
            return False
        source = self._nodes.get(_producer(node.input[0]))
        while source is not None and source.op == "Identity":
            source = self._nodes.get(_producer(source.input[0]))
        return source is not None and source.op == "ReadVariableOp"

    def _only_reads(self, node: Any) -> bool:
        if node.op in _PARTS:
            return True
        if node.op in _CONVOLUTIONS:
            before = [self._nodes[name] for name in map(_producer, node.input) if name in self._nodes]
            if any(other.op in _SCALES for other in (*before, *self._users[node.name])):
                return False
        return (node.op in _READERS or node.op in _CONVOLUTIONS) and node.name in self._varying


def _may_vary(node: Any) -> bool:
    return not node.input or node.op in _CONTROL_FLOW or is_stateful(node.op)


def _producer(name: str) -> str:
    return name.removeprefix("^").partition(":")[0]
