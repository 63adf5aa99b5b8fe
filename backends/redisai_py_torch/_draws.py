"""Does a program draw random numbers, or is it in training mode? Then equal inputs may give different outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["exported_draws", "script_draws"]

_SWITCHES = ("train", "training", "use_input_stats")
"""Arguments that turn on an operator's random or training behaviour."""
_UNKNOWN = object()
"""A value that is known only in a run."""


def script_draws(module: Any, nodes: Iterable[Any], nodes_of: Any) -> str:
    """The operators of a TorchScript module that draw; empty if none.

    Args: nodes: of `forward`, including everything it calls.   nodes_of: returns the nodes of a graph.
    """
    if not any(_concerns(node.kind()) for node in nodes):
        return ""
    try:  # freezing folds `self.training` and the branches that depend on it
        frozen = torch._C._freeze_module(module._c, [], True, False)
        nodes = list(nodes_of(frozen._get_method("forward").graph))
    except Exception:
        nodes = list(nodes_of(module.inlined_graph))
    return ", ".join(sorted({node.kind() for node in nodes if _draws(node.kind(), _of_script(node))}))


def exported_draws(program: Any) -> str:
    """The operators of an exported program that draw; empty if none."""
    graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
    found = set()
    for graph in graphs:
        for node in graph.nodes:
            schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
            if schema is not None and _draws(schema.name, _of_export(node, schema)):
                found.add(schema.name)
    return ", ".join(sorted(found))


def _of_script(node: Any) -> dict[str, Any]:
    """The switches of a node, with their values if constant."""
    schema = node.schema()
    names = [argument.name for argument in torch._C.parse_schema(schema).arguments] if "::" in schema else []
    switches = {}
    for name, value in zip(names, node.inputs(), strict=False):
        if name in _SWITCHES:
            constant = value.node().kind() == "prim::Constant"
            switches[name] = value.toIValue() if constant else _UNKNOWN
    return switches


def _of_export(node: Any, schema: Any) -> dict[str, Any]:
    switches = {}
    for place, argument in enumerate(schema.arguments):
        if argument.name in _SWITCHES:
            given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, _UNKNOWN)
            switches[argument.name] = given
    return switches


def _concerns(kind: str) -> bool:
    return "_norm" in kind or _is_random(kind)


def _draws(kind: str, switches: dict[str, Any]) -> bool:
    """Whether an operator with these switches draws, or trains."""
    if not _concerns(kind):
        return False
    if switches:
        return any(value is not False for value in switches.values())
    return _is_random(kind)


def _is_random(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    packet = getattr(getattr(torch.ops, namespace, None), name, None) if name else None
    if packet is None or not hasattr(packet, "overloads"):
        return False
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags for overload in packet.overloads())
