"""What the `forward` of a TorchScript module takes and returns, as tensors: what cannot be run is refused when it is
stored.

Inputs are its parameters, outputs the tensors of its result, those of tuples and dictionaries in any nesting one after
the other. RedisAI's rule counts a tuple's own tensors only. Sources: AI.MODELSTORE for the error texts' first words
(with RedisAI's spelling) and for the refusal of lists.
"""

from __future__ import annotations

from typing import Any

from redisai_py.backend import TensorSpec
from redisai_py.errors import BackendError

__all__ = ["INPUTS_TEXT", "input_specs", "output_specs"]

INPUTS_TEXT = "Erorr while trying to retrive model inputs number: "
_OUTPUTS_TEXT = "Erorr while trying to retrive model outputs number: "


def input_specs(schema: Any) -> tuple[TensorSpec, ...]:
    """One per parameter; those at the end that are no tensors and have a default keep it.

    Raises: BackendError: a parameter can be given no tensor.
    """
    parameters = list(schema.arguments[1:])
    while parameters and not _takes_tensor(parameters[-1].type) and parameters[-1].has_default_value():
        parameters.pop()
    for parameter in parameters:
        if not _takes_tensor(parameter.type):
            raise BackendError(
                f"{INPUTS_TEXT}forward's parameter {parameter.name} is a {_name(parameter.type)}; "
                "let forward take tensors, each as a parameter of its own"
            )
    return tuple(TensorSpec(parameter.name) for parameter in parameters)


def _takes_tensor(kind: Any) -> bool:
    if kind.kind() == "OptionalType":
        return _takes_tensor(kind.getElementType())
    return bool(kind.kind() == "TensorType")


def output_specs(schema: Any, graph: Any) -> tuple[TensorSpec, ...]:
    """One per tensor of the result; the names of a dictionary's tensors are its keys.

    Raises: BackendError: the result holds something else, or its tensors cannot be counted beforehand.
    """
    (returned,) = schema.returns
    (value,) = graph.outputs()
    specs = tuple(_tensors(returned.type, value, ""))
    if not specs:
        raise _refused(returned.type, "no tensor")
    return specs


def _tensors(kind: Any, value: Any, name: str) -> list[TensorSpec]:
    """value: the graph's, None where it is not known how it was made."""
    match kind.kind():
        case "TensorType":
            return [TensorSpec(name)]
        case "NoneType":
            return []
        case "TupleType":
            parts = _parts(value, "prim::TupleConstruct", kind.elements())
            return [
                spec for one, part in zip(kind.elements(), parts, strict=True) for spec in _tensors(one, part, name)
            ]
        case "DictType":
            return _of_dict(kind, value)
        case "ListType":
            raise _refused(kind, "a list, whose length is known only when it runs")
    raise _refused(kind, "something other than tensors")


def _parts(value: Any, made_by: str, elements: Any) -> list[Any]:
    node = value.node() if value is not None else None
    return list(node.inputs()) if node is not None and node.kind() == made_by else [None] * len(elements)


def _of_dict(kind: Any, value: Any) -> list[TensorSpec]:
    node = value.node() if value is not None else None
    is_written = node is not None and any(
        use.user.kind() not in ("prim::Return", "prim::TupleConstruct") for use in value.uses()
    )
    if node is None or node.kind() != "prim::DictConstruct" or is_written:
        raise _refused(kind, "a dictionary, whose size is known only when it runs")
    inputs = list(node.inputs())
    specs: list[TensorSpec] = []
    for key, element in zip(inputs[::2], inputs[1::2], strict=True):
        word = key.toIValue()
        specs += _tensors(kind.getValueType(), element, str(word) if word is not None else "")
    return specs


def _refused(kind: Any, what: str) -> BackendError:
    text = f"{_OUTPUTS_TEXT}forward returns {what} ({_name(kind)})"
    return BackendError(f"{text}; let it return a tensor, or a tuple of tensors")


def _name(kind: Any) -> str:
    return str(kind.annotation_str)
