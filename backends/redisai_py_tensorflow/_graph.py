"""Analysis of a graph between its inputs and outputs: what it needs, and whether it keeps state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from redisai_py.errors import BackendError
from redisai_py_tensorflow._branches import DECIDING, deciding

__all__ = ["Bound", "Traits", "apart", "check_fed", "is_stateful", "traits_of"]

_HARMLESS = """
    Placeholder PlaceholderWithDefault VarHandleOp ReadVariableOp VarIsInitializedOp VariableShape ResourceGather
    ResourceGatherNd Variable VariableV2 TemporaryVariable IsVariableInitialized HashTable HashTableV2 LookupTableFind
    LookupTableFindV2 LookupTableSize LookupTableSizeV2 LookupTableExport LookupTableExportV2 AnonymousHashTable
    StatefulPartitionedCall If While Case Assert Print PrintV2 Timestamp RandomUniform
    RandomUniformInt RandomStandardNormal
    TruncatedNormal RandomShuffle Multinomial RandomGamma RandomPoisson RandomPoissonV2 ParameterizedTruncatedNormal
    TensorArray TensorArrayV2 TensorArrayV3 TensorArrayGradV3 TensorArrayWriteV3 TensorArrayReadV3 TensorArrayGatherV3
    TensorArrayScatterV3 TensorArrayConcatV3 TensorArraySplitV3 TensorArraySizeV3 TensorArrayCloseV3 StackV2 StackPushV2
    StackPopV2 StackCloseV2 MergeV2Checkpoints DecodeProtoV2 RaggedTensorToTensor
"""
"""Operations that TensorFlow calls stateful but that leave nothing behind: they read, draw, print, or keep something
for one run. Function bodies are checked separately.
"""
_harmless = frozenset(_HARMLESS.split())
_DRAWING = """
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle Multinomial RandomGamma
    RandomPoisson RandomPoissonV2 ParameterizedTruncatedNormal StatefulRandomBinomial Timestamp
"""
_drawing = frozenset(_DRAWING.split())
_LOOPS = frozenset({"LoopCond", "StatelessWhile", "While"})
_FUNCTIONS = ("f", "then_branch", "else_branch", "cond", "body", "branches")


@dataclass(frozen=True, slots=True)
class Bound:
    """A graph's tensors, with the client's names for them.

    defaults: further tensors to feed: a SavedModel's default values for inputs that are left out.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    feeds: Sequence[Any]
    fetches: Sequence[Any]
    defaults: Sequence[tuple[Any, Any]] = ()

    @property
    def fed(self) -> list[Any]:
        """All fed tensors, in the order of a run."""
        return [*self.feeds, *(tensor for tensor, _ in self.defaults)]


def check_fed(bound: Bound) -> None:
    """Raise BackendError if an output needs a placeholder that is not an input, or has an unsupported dtype."""
    for name, fetch in zip(bound.outputs, bound.fetches, strict=True):
        if fetch.dtype.is_complex or fetch.dtype in (tf.resource, tf.variant):
            raise BackendError(f"ERR output {name} is of the type {fetch.dtype.name}, which no tensor here has")
    for operation in _needed(bound):
        if operation.type == "Placeholder":
            raise BackendError(
                f'ERR the outputs need the input "{operation.name}", which INPUTS leaves out (it names: '
                f"{', '.join(bound.inputs) or 'none'})"
            )


class Traits(NamedTuple):
    """What a run may do.

    stateful: assign a variable, fill a table or a queue, or call something that cannot be inspected.
    loops: go through a loop, whose number of iterations depends on values.
    draws: the operations that draw random numbers or read the clock; empty if none.
    branches: the operations that decide by values of the inputs what is executed; empty if none.
    """

    stateful: bool
    loops: bool
    draws: str
    branches: str


def traits_of(bound: Bound, graph: Any) -> Traits:
    """The traits of a graph between its inputs and outputs."""
    definition = graph.as_graph_def()
    kinds = set(_kinds(bound, definition))
    branches = ""
    if not DECIDING.isdisjoint(kinds):
        needed = [operation.name for operation in _needed(bound)]
        branches = deciding(definition, [tensor.name for tensor in bound.feeds], needed)
    return Traits(
        any(is_stateful(kind) and kind not in _harmless for kind in kinds),
        not _LOOPS.isdisjoint(kinds),
        ", ".join(sorted(_drawing & kinds)),
        branches,
    )


def _kinds(bound: Bound, definition: Any) -> Iterator[str]:
    """The kinds of all operations, including those in called functions."""
    library = {function.signature.name: function for function in definition.library.function}
    pending = [operation.node_def for operation in _needed(bound)]
    seen: set[str] = set()
    while pending:
        node = pending.pop()
        if node.op in library:
            called = [node.op]
        else:
            yield node.op
            called = [name for key in _FUNCTIONS if key in node.attr for name in _called(node.attr[key])]
        for name in called:
            if name in library and name not in seen:
                seen.add(name)
                pending.extend(library[name].node_def)


def _called(value: Any) -> list[str]:
    return [value.func.name] if value.func.name else [function.name for function in value.list.func]


def is_stateful(kind: str) -> bool:
    """Whether TensorFlow calls operations of this kind stateful; true for unknown kinds."""
    definition = op_def_registry.get(kind)
    return definition is None or bool(definition.is_stateful) or kind in _ref_writers


_REF_WRITERS = """
    Assign AssignAdd AssignSub ScatterUpdate ScatterAdd ScatterSub ScatterMul ScatterDiv ScatterMin ScatterMax
    ScatterNdUpdate ScatterNdAdd ScatterNdSub CountUpTo ApplyGradientDescent
"""
"""These write through a reference, which TensorFlow 1 did not call stateful."""
_ref_writers = frozenset(_REF_WRITERS.split())


def _needed(bound: Bound) -> Iterator[Any]:
    """The operations between the fed tensors and the outputs."""
    fed = {tensor.ref() for tensor in bound.fed}
    seen = set()
    pending = [tensor.op for tensor in bound.fetches if tensor.ref() not in fed]
    while pending:
        operation = pending.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        yield operation
        pending.extend(tensor.op for tensor in operation.inputs if tensor.ref() not in fed)
        pending.extend(operation.control_inputs)


def apart(fetches: Sequence[Any], feeds: Sequence[Any]) -> list[Any]:
    """Copy outputs that are also inputs: TensorFlow refuses to fetch what is fed."""
    fed = {feed.ref() for feed in feeds}
    return [tf.identity(fetch) if fetch.ref() in fed else fetch for fetch in fetches]
