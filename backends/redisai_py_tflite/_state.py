"""Does a flatbuffer's program keep state, in variable tensors (recurrent layers) or in resources that it assigns?

Does it draw random numbers?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from redisai_py.backend import Blob

__all__ = ["may_keep_state", "may_loop", "what_draws"]

_ASSIGN = schema.BuiltinOperator.ASSIGN_VARIABLE
_LOOPS = (schema.BuiltinOperator.WHILE, schema.BuiltinOperator.STABLEHLO_WHILE)
_CALL_ONCE = schema.BuiltinOperator.CALL_ONCE
_DRAW = {
    getattr(schema.BuiltinOperator, name): name for name in ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
}


def may_keep_state(blob: Blob) -> bool:
    """Whether a run may affect later runs. Initialisation, which runs once, does not count.

    Args: blob: a flatbuffer that the interpreter has accepted.
    """
    try:
        model = schema.Model.GetRootAs(blob, 0)
        graphs = [model.Subgraphs(at) for at in range(model.SubgraphsLength())]
        codes = [model.OperatorCodes(at).BuiltinCode() for at in range(model.OperatorCodesLength())]
        once = {at for graph in graphs for at in _run_once(graph, codes)}
        return any(_keeps(graph, codes) for at, graph in enumerate(graphs) if at not in once)
    except Exception:  # assume the worst of a file that cannot be inspected
        return True


def may_loop(blob: Blob) -> bool:
    """Whether the program has a loop, whose number of iterations depends on values."""
    try:
        model = schema.Model.GetRootAs(blob, 0)
        return any(model.OperatorCodes(at).BuiltinCode() in _LOOPS for at in range(model.OperatorCodesLength()))
    except Exception:  # assume the worst of a file that cannot be inspected
        return True


def what_draws(blob: Blob) -> str:
    """The operators that draw random numbers; empty if none.   blob: a flatbuffer that the interpreter has accepted."""
    try:
        model = schema.Model.GetRootAs(blob, 0)
        codes = {model.OperatorCodes(at).BuiltinCode() for at in range(model.OperatorCodesLength())}
    except Exception:  # assume the worst of a file that cannot be inspected
        return "the file cannot be looked through"
    return ", ".join(name for code, name in _DRAW.items() if code in codes)


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
