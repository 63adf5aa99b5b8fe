"""Inputs and outputs of a TorchScript module's `forward`, as tensors. A module that cannot be run is refused at store
time.

Inputs are its parameters, outputs the tensors of its result, including nested tuples and dictionaries, in order.
RedisAI counts only the tensors of a tuple itself. Sources: AI.MODELSTORE for the first words of the error texts (with
RedisAI's spelling) and for the refusal of lists.
"""

from __future__ import annotations

from typing import Any

from redisai_py.backend import TensorSpec
from redisai_py.errors import BackendError

__all__ = ["INPUTS_TEXT", "input_specs", "output_specs"]

INPUTS_TEXT = "Erorr while trying to retrive model inputs number: "
_OUTPUTS_TEXT = "Erorr while trying to retrive model outputs number: "


def input_specs(schema: Any) -> tuple[TensorSpec, ...]:
    """One per parameter. Trailing parameters that are not tensors and have a default keep that default.

    Raises: BackendError: a parameter cannot be a tensor.
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
    """One per tensor of the result; the tensors of a dictionary are named by its keys.

    Raises: BackendError: the result contains something else, or its number of tensors is unknown before a run.
    """
    (returned,) = schema.returns
    (value,) = graph.outputs()
    specs = tuple(_tensors(returned.type, value, ""))
    if not specs:
        raise _refused(returned.type, "no tensor")
    return specs


def _tensors(kind: Any, value: Any, name: str) -> list[TensorSpec]:
    """value: the graph's value, or None if unknown."""
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
