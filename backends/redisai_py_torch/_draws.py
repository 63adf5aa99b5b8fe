"""Does a program draw random numbers, or is it in training mode? Then equal inputs may give different outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["exported_draws", "script_draws"]

_SWITCHES = ("train", "training", "use_input_stats", "dropout_p")
"""Arguments that turn on an operator's random or training behaviour; for a probability, 0 is off."""
_RUNNING = "running_mean"
_READ = (*_SWITCHES, _RUNNING)
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
    given = dict(zip(names, node.inputs(), strict=False))
    return _switches({name: _constant(value) for name, value in given.items() if name in _READ})


def _constant(value: Any) -> Any:
    node = value.node()
    return value.toIValue() if node.kind() == "prim::Constant" else _UNKNOWN


def _of_export(node: Any, schema: Any) -> dict[str, Any]:
    given = {}
    for place, argument in enumerate(schema.arguments):
        if argument.name in _READ:
            default = argument.default_value if argument.has_default_value() else _UNKNOWN
            given[argument.name] = (
                node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, default)
            )
    return _switches(given)


def _switches(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are switches. Statistics of the input train nothing where no running ones are kept."""
    switches = {name: value for name, value in given.items() if name in _SWITCHES}
    if given.get(_RUNNING, _UNKNOWN) is None and "use_input_stats" in switches:
        switches["use_input_stats"] = False
    return switches


def _concerns(kind: str) -> bool:
    return "_norm" in kind or _is_random(kind)


def _draws(kind: str, switches: dict[str, Any]) -> bool:
    """Whether an operator with these switches draws, or trains."""
    if not _concerns(kind):
        return False
    if switches:
        return any(value is _UNKNOWN or value is None or value != 0 for value in switches.values())
    return _is_random(kind)


def _is_random(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    packet = getattr(getattr(torch.ops, namespace, None), name, None) if name else None
    if packet is None or not hasattr(packet, "overloads"):
        return False
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags for overload in packet.overloads())
