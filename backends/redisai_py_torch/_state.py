"""Does an exported program write to something that outlives a run: its parameters, buffers and constants?"""

from __future__ import annotations

from typing import Any

__all__ = ["may_keep_state"]

_NORMS = ("batch_norm", "native_batch_norm", "instance_norm", "cudnn_batch_norm", "miopen_batch_norm")
_RUNNING_MEAN, _TRAINING = 3, 5
"""Positions of their arguments. In training they write to the running mean, but their schemas do not say so."""


def may_keep_state(program: Any) -> bool:
    """Follow the program's own tensors through views to any operator that writes to one of them."""
    signature = program.graph_signature
    if signature.buffers_to_mutate or getattr(signature, "parameters_to_mutate", None):
        return True
    given = {
        spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT" and hasattr(spec.arg, "name")
    }
    kept: set[Any] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr" or (node.op == "placeholder" and node.name not in given):
            kept.add(node)
        elif node.op == "call_function":
            schema = getattr(node.target, "_schema", None)
            if schema is None:
                if kept.intersection(node.all_input_nodes):
                    if "builtin" not in type(node.target).__name__ and _writes_inside(program):
                        return True
                    kept.add(node)
                continue
            if _writes_to(node, schema, kept):
                return True
            if any(result.alias_info is not None for result in schema.returns) and kept.intersection(
                node.all_input_nodes
            ):
                kept.add(node)
    return False


def _writes_inside(program: Any) -> bool:
    """Whether a branch or a loop body, which are separate graphs, writes to any tensor."""
    graphs = [module.graph for module in program.graph_module.modules() if hasattr(module, "graph")]
    schemas = [getattr(node.target, "_schema", None) for graph in graphs[1:] for node in graph.nodes]
    return any(schema is not None and schema.is_mutable for schema in schemas)


def _writes_to(node: Any, schema: Any, kept: set[Any]) -> bool:
    """Whether an operator writes to one of these tensors."""
    if schema.name.removeprefix("aten::") in _NORMS:
        args = (*node.args, *[None] * 6)
        return args[_RUNNING_MEAN] in kept and args[_TRAINING] is not False
    if not schema.is_mutable:
        return False
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if kept.intersection(value if isinstance(value, (list, tuple)) else [value]):
            return True
    return False
