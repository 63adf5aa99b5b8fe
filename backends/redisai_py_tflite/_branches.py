"""Do values of the inputs decide which branch of a flatbuffer's program runs, or how often a loop does?

Then requests that share a run would decide for each other. What depends on values of the inputs is followed through
the subgraphs. What comes from sizes does not count, unless values decided the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from redisai_py.backend import Blob
from redisai_py.dataflow import VALUES, result_flags, union_of

__all__ = ["what_branches"]

_OP = schema.BuiltinOperator
_SIZES = frozenset({_OP.SHAPE, _OP.RANK})
_SHAPED_BY_VALUES = frozenset(
    {_OP.WHERE, _OP.UNIQUE, _OP.NON_MAX_SUPPRESSION_V4, _OP.NON_MAX_SUPPRESSION_V5, _OP.RANGE}
)
_PARAMETERS = {
    **dict.fromkeys((_OP.SLICE, _OP.STRIDED_SLICE), (1, 2, 3)),
    **dict.fromkeys((_OP.RESHAPE, _OP.TILE, _OP.PAD, _OP.PADV2, _OP.BROADCAST_TO, _OP.TOPK_V2, _OP.ONE_HOT), (1,)),
    _OP.FILL: (0,),
}
"""Per operator the inputs whose values decide the shape of its output."""
_OPAQUE = {_OP.STABLEHLO_WHILE: "STABLEHLO_WHILE", _OP.STABLEHLO_CASE: "STABLEHLO_CASE"}
"""Control flow that is not followed: it counts as decided by values."""

_MOST_STEPS = 500_000
"""Loops in loops may take exponential time."""


def what_branches(blob: Blob, subgraph: int) -> str:
    """The operators that decide by values of the inputs; empty if none.

    Args: blob: a flatbuffer that the interpreter has accepted.   subgraph: the number of the program that runs.
    """
    try:
        flow = _Flow(schema.Model.GetRootAs(blob, 0))
        flow.run(subgraph, None)
    except Exception:  # assume the worst of a file that cannot be inspected
        return "the file cannot be looked through"
    return ", ".join(sorted(flow.found))


class _Flow:
    """Follows values. found: the operators that decide."""

    def __init__(self, model: Any) -> None:
        self.found: set[str] = set()
        self._model = model
        self._steps = 0
        self._codes = [model.OperatorCodes(at).BuiltinCode() for at in range(model.OperatorCodesLength())]

    def run(self, number: int, given: Sequence[int] | None) -> list[int]:
        """The flags of a subgraph's outputs.   given: those of its inputs; None for the clients' inputs."""
        graph = self._model.Subgraphs(number)
        inputs = _numbers(graph.InputsAsNumpy())
        flags = dict(zip(inputs, [VALUES] * len(inputs) if given is None else given, strict=False))
        for at in range(graph.OperatorsLength()):
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise ValueError("too many operators")
            operator = graph.Operators(at)
            taken = [flags.get(tensor, 0) for tensor in _numbers(operator.InputsAsNumpy())]
            made = _numbers(operator.OutputsAsNumpy())
            flags.update(zip(made, self._outputs(operator, taken, len(made)), strict=False))
        return [flags.get(tensor, 0) for tensor in _numbers(graph.OutputsAsNumpy())]

    def _outputs(self, operator: Any, given: list[int], count: int) -> list[int]:
        code = self._codes[operator.OpcodeIndex()]
        if code == _OP.IF:
            if given[0] & VALUES:
                self.found.add("IF")
            options = _options(operator, schema.IfOptions())
            sides = (options.ThenSubgraphIndex(), options.ElseSubgraphIndex())
            return union_of(self.run(side, given[1:]) for side in sides)
        if code == _OP.WHILE:
            return self._loop(_options(operator, schema.WhileOptions()), given)
        if code in _OPAQUE and any(given):
            self.found.add(_OPAQUE[code])
        flag = result_flags(given, code in _SIZES, _PARAMETERS.get(code, ()), code in _SHAPED_BY_VALUES)
        return [flag] * count

    def _loop(self, options: Any, given: list[int]) -> list[int]:
        state = given
        while True:
            if any(flag & VALUES for flag in self.run(options.CondSubgraphIndex(), state)):
                self.found.add("WHILE")
            results = self.run(options.BodySubgraphIndex(), state)
            after = [old | new for old, new in zip(state, results, strict=True)]
            if after == state:
                return state
            state = after


def _options(operator: Any, options: Any) -> Any:
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _numbers(tensors: Any) -> list[int]:
    """The flatbuffers package returns 0 for a list that is missing."""
    return [int(tensor) for tensor in tensors] if isinstance(tensors, np.ndarray) else []
