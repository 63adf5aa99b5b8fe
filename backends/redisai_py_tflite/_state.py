"""Does a flatbuffer's program keep state, in variable tensors (recurrent layers) or in resources that it assigns? Does
it loop, or draw random numbers?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ai_edge_litert import schema_py_generated as schema

from redisai_py.backend import Blob

__all__ = ["Traits", "traits_of"]

_ASSIGN = schema.BuiltinOperator.ASSIGN_VARIABLE
_LOOPS = (schema.BuiltinOperator.WHILE, schema.BuiltinOperator.STABLEHLO_WHILE)
_CALL_ONCE = schema.BuiltinOperator.CALL_ONCE
_DRAW = {
    getattr(schema.BuiltinOperator, name): name for name in ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
}


class Traits(NamedTuple):
    """stateful: a run may affect later runs; initialisation, which runs once, does not count.   loops: there is a loop,
    whose number of iterations depends on values.   draws: the operators that draw random numbers; empty if none.
    """

    stateful: bool = True
    loops: bool = True
    draws: str = "the file cannot be looked through"


def traits_of(blob: Blob) -> Traits:
    """The traits of a flatbuffer that the interpreter has accepted; the worst if it cannot be inspected."""
    try:
        model = schema.Model.GetRootAs(blob, 0)
        graphs = [model.Subgraphs(at) for at in range(model.SubgraphsLength())]
        codes = [model.OperatorCodes(at).BuiltinCode() for at in range(model.OperatorCodesLength())]
        once = {at for graph in graphs for at in _run_once(graph, codes)}
        return Traits(
            any(_keeps(graph, codes) for at, graph in enumerate(graphs) if at not in once),
            any(code in _LOOPS for code in codes),
            ", ".join(name for code, name in _DRAW.items() if code in codes),
        )
    except Exception:  # what Traits says by default holds for a file that cannot be inspected
        return Traits()


def _operators(graph: Any) -> Iterator[Any]:
    for at in range(graph.OperatorsLength()):
        yield graph.Operators(at)


def _run_once(graph: Any, codes: list[int]) -> Iterator[int]:
    for operator in _operators(graph):
        if codes[operator.OpcodeIndex()] == _CALL_ONCE:
            table = operator.BuiltinOptions()
            options = schema.CallOnceOptions()
            options.Init(table.Bytes, table.Pos)
            yield options.InitSubgraphIndex()


def _keeps(graph: Any, codes: list[int]) -> bool:
    if any(graph.Tensors(at).IsVariable() for at in range(graph.TensorsLength())):
        return True
    return any(codes[operator.OpcodeIndex()] == _ASSIGN for operator in _operators(graph))
