"""The signatures of a SavedModel: selecting one, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from redisai_py.errors import BackendError
from redisai_py_tensorflow._graph import Bound

__all__ = ["bind_signature"]

_DEFAULT = "serving_default"


def bind_signature(
    signatures: Mapping[str, Any], graph: Any, inputs: Sequence[str], outputs: Sequence[str], wanted: str
) -> Bound:
    """The tensors of a signature's inputs and outputs.

    Args:    inputs, outputs: names in the order of runs; both empty for all, in alphabetical order.
             wanted: the signature's name; empty for the default one, the only one, or the first that has the names.
    Raises:  BackendError: no such signature, or none with these names.
    """
    name, signature = _chosen(signatures, inputs, outputs, wanted)
    if not inputs and not outputs:
        inputs, outputs = sorted(signature.inputs), sorted(signature.outputs)
    _check(name, "Input", inputs, signature.inputs, "takes", " in TF graph.")
    _check(name, "Output", outputs, signature.outputs, "gives", " in TF graph.")
    feeds = [graph.get_tensor_by_name(signature.inputs[key].name) for key in inputs]
    fetches = [graph.get_tensor_by_name(signature.outputs[key].name) for key in outputs]
    left_out = {
        key: tf.make_ndarray(value)
        for key, value in getattr(signature, "defaults", {}).items()
        if key not in inputs and key in signature.inputs
    }
    defaults = [(graph.get_tensor_by_name(signature.inputs[key].name), value) for key, value in left_out.items()]
    return Bound(inputs, outputs, feeds, fetches, defaults)


def _chosen(
    signatures: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str], wanted: str
) -> tuple[str, Any]:
    known = ", ".join(sorted(signatures)) or "none"
    if wanted:
        if wanted not in signatures:
            raise BackendError(f'ERR SavedModel has no signature "{wanted}", but: {known}')
        return wanted, signatures[wanted]
    order = sorted(signatures, key=lambda name: (name != _DEFAULT, name))
    if inputs or outputs:
        for name in order:
            if set(inputs) <= set(signatures[name].inputs) and set(outputs) <= set(signatures[name].outputs):
                return name, signatures[name]
    if order and (order[0] == _DEFAULT or len(order) == 1):
        return order[0], signatures[order[0]]
    raise BackendError(f"ERR SavedModel has no signature {_DEFAULT}, but: {known}; name one with SIGNATURE")


def _check(signature: str, what: str, names: Sequence[str], known: Mapping[str, Any], verb: str, tail: str) -> None:
    for name in names:
        if name not in known:
            words = ", ".join(sorted(known)) or "nothing"
            raise BackendError(
                f'ERR {what} node named "{name}" not found{tail} The SavedModel {verb}: {words} (signature {signature})'
            )
