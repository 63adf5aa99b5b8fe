"""Do values of the inputs decide which branch of a graph runs, or how often a loop does?

Then requests that share a run would decide for each other. What depends on values of the inputs is followed through
the graph and the functions that it calls. What comes from sizes does not count, unless values decided the size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from redisai_py.dataflow import VALUES, result_flags, union_of

__all__ = ["DECIDING", "deciding"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIZES = _words("Shape ShapeN Size Rank TensorListLength TensorArraySizeV3 VariableShape")
_SHAPED_BY_VALUES = _words("""
    Where Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 ListDiff SparseToDense NonMaxSuppression
    NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 DynamicPartition Bincount
    DenseBincount StringSplit StringSplitV2 RaggedRange RaggedTensorFromVariant DecodeRaw DecodeImage DecodeJpeg
    DecodePng Range LinSpace
    """)
"""Operations whose result has as many elements as values of their inputs say."""
_PARAMETERS = {
    **dict.fromkeys(_words("Reshape Tile Pad PadV2 MirrorPad BroadcastTo ExpandDims OneHot"), (1,)),
    **dict.fromkeys(_words("Slice StridedSlice"), (1, 2, 3)),
    **dict.fromkeys(_words("TopKV2 ResizeNearestNeighbor ResizeBilinear ResizeBicubic SplitV SequenceMask"), (1,)),
    "ScatterNd": (2,),
    "Fill": (0,),
}
"""Per operation the inputs whose values decide the shape of its output."""
_IFS = _words("If StatelessIf Case StatelessCase")
_WHILES = _words("While StatelessWhile")
_CALLS = _words("PartitionedCall StatefulPartitionedCall")
_DECIDED_BY = {"Assert": 0, "Switch": 1, "RefSwitch": 1, "_SwitchN": 1}
"""Per operation the input that decides."""
DECIDING = _IFS | _WHILES | frozenset(_DECIDED_BY)
"""Operations that may decide; a graph without them need not be analysed."""
_MOST_STEPS = 1_000_000
"""A graph whose nodes are in reverse order takes quadratic time."""

Flags = dict[str, list[int]]
"""Per node the flags of its outputs; one number stands for all of them."""


def deciding(definition: Any, fed: Collection[str], fetched: Iterable[str]) -> str:
    """The operations that decide by values of the inputs; empty if none.

    Args: definition: a GraphDef.   fed: names of the tensors that a run feeds (`x:0`).   fetched: names of the
          operations that the outputs need.
    """
    flow = _Flow(definition)
    needed = set(fetched)
    nodes = [node for node in definition.node if node.name in needed]
    try:
        flow.walk(nodes, dict.fromkeys(fed, VALUES), {})
    except Exception:  # assume the worst of a graph that cannot be analysed
        return "it cannot be looked through"
    return ", ".join(sorted(flow.found))


class _Flow:
    """Follows values. found: the operations that decide."""

    def __init__(self, definition: Any) -> None:
        self.found: set[str] = set()
        self._functions = {function.signature.name: function for function in definition.library.function}
        self._steps = 0
        self._known: dict[tuple[str, tuple[int, ...]], list[int]] = {}

    def walk(self, nodes: Sequence[Any], fed: dict[str, int], arguments: dict[str, int]) -> Flags:
        """The flags of what the nodes compute, in whatever order they are, and in circles too.

        Args: fed: flags by tensor (`x:0`).   arguments: flags by name, those of a function.
        """
        flags: Flags = {name: [flag] for name, flag in arguments.items()}
        changed = True
        while changed:
            changed = False
            self._steps += len(nodes)
            if self._steps > _MOST_STEPS:
                raise ValueError("too many nodes")
            for node in nodes:
                given = [_flag(name, flags, fed) for name in node.input if not name.startswith("^")]
                result = self._outputs(node, given)
                if any(result) and result != flags.get(node.name):
                    flags[node.name] = result
                    changed = True
        return flags

    def _outputs(self, node: Any, given: list[int]) -> list[int]:
        if node.op in _IFS:
            return self._choice(node, given)
        if node.op in _WHILES:
            return self._loop(node, given)
        if node.op in _CALLS:
            return self._call(node.attr["f"].func.name, given)
        if node.op in self._functions:
            return [max(self._call(node.op, given), default=0)]
        if node.op == "IdentityN":
            return given
        if node.op in _DECIDED_BY and given[_DECIDED_BY[node.op]] & VALUES:
            self.found.add(node.op)
        return [result_flags(given, node.op in _SIZES, _PARAMETERS.get(node.op, ()), node.op in _SHAPED_BY_VALUES)]

    def _choice(self, node: Any, given: list[int]) -> list[int]:
        if given and given[0] & VALUES:
            self.found.add(node.op)
        names = [node.attr[key].func.name for key in ("then_branch", "else_branch") if key in node.attr]
        names += [function.name for function in node.attr["branches"].list.func]
        return union_of(self._call(name, given[1:]) for name in names)

    def _loop(self, node: Any, given: list[int]) -> list[int]:
        state = list(given)
        while True:
            condition = self._call(node.attr["cond"].func.name, state)
            if condition and condition[0] & VALUES:
                self.found.add(node.op)
            after = [old | new for old, new in zip(state, self._call(node.attr["body"].func.name, state), strict=True)]
            if after == state:
                return state
            state = after

    def _call(self, name: str, given: Sequence[int]) -> list[int]:
        """The flags of a function's results."""
        key = (name, tuple(given))
        if key not in self._known:
            self._known[key] = []  # a function that calls itself adds nothing the second time
            function = self._functions[name]
            names = [argument.name for argument in function.signature.input_arg]
            flags = self.walk(function.node_def, {}, dict(zip(names, given, strict=False)))
            results = [function.ret[argument.name] for argument in function.signature.output_arg]
            self._known[key] = [_flag(result, flags, {}) for result in results]
        return self._known[key]


def _flag(name: str, flags: Flags, fed: dict[str, int]) -> int:
    """The flags of an input: `node`, `node:1`, or in a function `node:output:1`."""
    node, *place = name.split(":")
    at = int(place[-1]) if place else 0
    flag = fed.get(f"{node}:{at}")
    if flag is not None:
        return flag
    found = flags.get(node, [0])
    return found[0] if len(found) == 1 else found[at]
