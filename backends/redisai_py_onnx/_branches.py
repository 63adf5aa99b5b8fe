"""Do values of the inputs decide which branch of an ONNX model runs, or how often a loop does?

Then requests that share a run would decide for each other. What depends on values of the inputs is followed through
the graph, its subgraphs and functions. What comes from `Shape` does not count (exporters make such branches), unless
values decided the shape (`NonZero`). Field numbers: onnx.proto of ONNX 1.16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from redisai_py.backend import Blob
from redisai_py.dataflow import VALUES, result_flags, union_of
from redisai_py_onnx._external_data import fields_of

__all__ = ["what_branches"]

_MARKS = (b'"\x02If', b'"\x04Loop')
"""NodeProto.op_type of operators that decide. Weights may contain these bytes by chance, which costs time only."""
_SIZES = frozenset({"Shape", "Size", "SequenceLength"})
_SHAPED_BY_VALUES = {
    **dict.fromkeys(("NonZero", "Unique", "NonMaxSuppression", "StringSplit", "ConstantOfShape", "Range"), (0, 1, 2)),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Pad", "Compress", "TopK", "OneHot", "Split", "CenterCropPad"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Resize": (2, 3),
    "Upsample": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Per operator the inputs whose values decide the shape of its output."""
_GRAPH, _FUNCTION = 7, 25  # of ModelProto
_DEEPEST = 64
_MOST_STEPS = 500_000
"""Functions that call functions, and loops in loops, may take exponential time."""

Flags = dict[str, int]


@dataclass(slots=True)
class _Node:
    """A NodeProto."""

    kind: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    graphs: dict[str, _Graph] = field(default_factory=dict)
    scan_inputs: int = 0


@dataclass(slots=True)
class _Graph:
    """A GraphProto or a FunctionProto, as far as values flow through it."""

    name: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[_Node] = field(default_factory=list)


def what_branches(blob: Blob, inputs: Collection[str]) -> str:
    """The operators that decide by values of the inputs; empty if none.

    Args: blob: a serialised ModelProto that ONNX Runtime has accepted.   inputs: names of its inputs.
    """
    if all(blob.find(mark) < 0 for mark in _MARKS):
        return ""
    try:
        model = _read(memoryview(blob))
        flow = _Flow({(each.domain, each.name): each for each in map(_function, model[_FUNCTION])})
        flow.walk(_graph(model[_GRAPH][-1]).nodes, dict.fromkeys(inputs, VALUES))
    except Exception:  # assume the worst of a model that cannot be analysed
        return "it cannot be looked through"
    return ", ".join(sorted(flow.found))


class _Flow:
    """Follows values. found: the operators that decide."""

    def __init__(self, functions: dict[tuple[str, str], _Graph]) -> None:
        self.found: set[str] = set()
        self._functions = functions
        self._steps = 0

    def walk(self, nodes: Iterable[_Node], flags: Flags) -> None:
        """Add the flags of what the nodes compute; they are in topological order, as ONNX demands."""
        for node in nodes:
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise ValueError("too many nodes")
            for name, flag in zip(node.outputs, self._outputs(node, flags), strict=False):
                if flag:
                    flags[name] = flag

    def _outputs(self, node: _Node, flags: Flags) -> Sequence[int]:
        given = [flags.get(name, 0) for name in node.inputs]
        if node.kind == "If" and given:
            if given[0] & VALUES:
                self.found.add(node.kind)
            return union_of(self._graph(graph, (), flags) for graph in node.graphs.values())
        if node.kind == "Loop" and "body" in node.graphs:
            return self._loop(node, given, flags)
        if node.kind == "Scan" and "body" in node.graphs:
            return self._scan(node, given, flags)
        function = self._functions.get((node.domain, node.kind))
        if function is not None:
            return self._graph(function, given, {})
        flag = result_flags(given, node.kind in _SIZES, _SHAPED_BY_VALUES.get(node.kind, ()))
        if node.graphs:  # SequenceMap, or an operator of a plugin: its graph may read what is around it
            inner = union_of(self._graph(graph, [flag] * len(graph.inputs), flags) for graph in node.graphs.values())
            flag = max(flag, *inner)  # values of 0, 1 and 3 only: the largest is their union
        return [flag] * len(node.outputs)

    def _graph(self, graph: _Graph, given: Sequence[int], around: Flags) -> list[int]:
        """The flags of a graph's outputs."""
        flags = {**around, **dict(zip(graph.inputs, given, strict=False))}
        self.walk(graph.nodes, flags)
        return [flags.get(name, 0) for name in graph.outputs]

    def _loop(self, node: _Node, given: Sequence[int], around: Flags) -> list[int]:
        """Inputs: number of rounds, whether to begin, what the rounds hand on. The body returns whether to go on."""
        body, handed_on = node.graphs["body"], list(given[2:])
        while True:
            results = self._graph(body, [0, 0, *handed_on], around)
            if any(flag & VALUES for flag in (*given[:2], *results[:1])):
                self.found.add(node.kind)
            state = [before | after for before, after in zip(handed_on, results[1:], strict=False)]
            if state == handed_on:
                return [*state, *results[1 + len(state) :]]
            handed_on = state

    def _scan(self, node: _Node, given: Sequence[int], around: Flags) -> list[int]:
        """A loop whose number of rounds is a size."""
        body, count = node.graphs["body"], len(given) - node.scan_inputs
        state, rows = list(given[:count]), given[count:]
        while True:
            results = self._graph(body, [*state, *rows], around)
            after = [old | new for old, new in zip(state, results, strict=False)]
            if after == state:
                return [*state, *results[count:]]
            state = after


def _graph(data: memoryview, depth: int = 0) -> _Graph:
    """Fields of GraphProto: node 1, input 11, output 12, which are ValueInfoProtos with a name 1."""
    if depth > _DEEPEST:
        raise ValueError("graphs are nested too deeply")
    parts = _read(data)
    inputs, outputs = ([_text(_read(value)[1]) for value in parts[number]] for number in (11, 12))
    return _Graph(inputs=inputs, outputs=outputs, nodes=[_node(node, depth) for node in parts[1]])


def _function(data: memoryview) -> _Graph:
    """Fields of FunctionProto: name 1, input 4, output 5, node 7, domain 10."""
    parts = _read(data)
    nodes = [_node(node, 0) for node in parts[7]]
    return _Graph(_text(parts[1]), _text(parts[10]), _texts(parts[4]), _texts(parts[5]), nodes)


def _node(data: memoryview, depth: int) -> _Node:
    """Fields of NodeProto: input 1, output 2, op_type 4, attribute 5, domain 7; of AttributeProto: name 1, i 3, g 6,
    graphs 11.
    """
    parts = _read(data)
    node = _Node(_text(parts[4]), _text(parts[7]), _texts(parts[1]), _texts(parts[2]))
    for attribute in parts[5]:
        described = _read(attribute)
        name = _text(described[1])
        for place, graph in enumerate((*described[6], *described[11])):
            node.graphs[f"{name}{place or ''}"] = _graph(graph, depth + 1)
        if name == "num_scan_inputs":
            for number, value in fields_of(attribute):
                if number == 3 and isinstance(value, int):
                    node.scan_inputs = value
    return node


def _read(data: memoryview) -> defaultdict[int, list[memoryview]]:
    """The texts and messages in a message, by the number of their field."""
    found = defaultdict(list)
    for number, value in fields_of(data):
        if isinstance(value, memoryview):
            found[number].append(value)
    return found


def _texts(values: Iterable[memoryview]) -> list[str]:
    return [bytes(value).decode(errors="surrogateescape") for value in values]


def _text(values: Sequence[memoryview]) -> str:
    """The text of a field that counts once: the last; empty if it is missing."""
    return _texts(values[-1:])[0] if values else ""
