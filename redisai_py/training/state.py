"""A training state as JSON and tensors, and back. Nothing is ever pickled.

A state is the result of `state_dict()`: dicts, lists and tuples of numbers, strings and tensors. Scalars and structure
become JSON. Tensors are named by their position in it and copied by `packing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from redisai_py.artifacts import Invalid

__all__ = ["Tensors", "give", "take"]

Tensors = list[tuple[str, torch.Tensor]]
"""Names, derived from the position in the state, and the tensors themselves, on any device."""

_PLAIN = (bool, int, str, type(None))


def take(state: Mapping[str, Any]) -> tuple[Any, Tensors]:
    """Split a state into structure and tensors, without copying.

    Returns: its structure, as JSON values, and its tensors.
    Raises:  Invalid: it holds something else; names the position.
    """
    taken = _Taking()
    structure = taken.value("", state)
    return structure, taken.tensors


class _Taking:
    def __init__(self) -> None:
        self.tensors: Tensors = []
        self._known: dict[Any, int] = {}

    def value(self, path: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._tensor(path, value)}
        if isinstance(value, np.ndarray):
            return {"$array": self._tensor(path, _from_numpy(path, value))}
        if isinstance(value, np.generic):
            return self.value(path, value.item())
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        if isinstance(value, _PLAIN):
            return value
        return self._container(path, value)

    def _container(self, path: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            if all(type(key) is str and not key.startswith("$") for key in value):
                return {key: self.value(_under(path, key), item) for key, item in value.items()}
            pairs = [
                [self.value(f"{path}, a key", key), self.value(_under(path, key), item)] for key, item in value.items()
            ]
            return {"$dict": pairs}
        if isinstance(value, (list, tuple)):
            items = [self.value(_under(path, place), item) for place, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        if isinstance(value, (bytes, bytearray)):
            return {"$bytes": bytes(value).hex()}
        raise Invalid(
            f"{path or 'the state'} is a {type(value).__name__}, which only pickle could keep; a checkpoint holds "
            "dicts, lists, tuples, numbers, texts, bytes and tensors"
        )

    def _tensor(self, path: str, tensor: torch.Tensor) -> int:
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or hasattr(tensor, "full_tensor"):
            raise Invalid(
                f"{path} is a tensor that is sparse, quantized, sharded or without data; "
                "a checkpoint holds dense tensors: gather or convert it first"
            )
        # Tied weights are one tensor with several names; store it once.
        seen = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if not tensor.numel() or seen not in self._known:
            self._known[seen] = len(self.tensors)
            self.tensors.append((path, tensor.detach().resolve_conj().resolve_neg()))
        return self._known[seen]


def _under(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _from_numpy(path: str, array: Any) -> torch.Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError:
        raise Invalid(f"{path} is an array of {array.dtype}, which a checkpoint does not hold") from None


def give(structure: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The state that `take` split. Raises: Invalid: not such a structure, or a tensor is missing."""
    try:
        return _given(structure, tensors)
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"this is not a state of a training: {error!r}") from None


def _given(value: Any, tensors: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_given(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((form, content),) = value.items()
        if form in _FORMS:
            return _FORMS[form](content, tensors)
    return {key: _given(item, tensors) for key, item in value.items()}


def _place(content: Any, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if type(content) is not int or content < 0:
        raise ValueError(f"{content!r} is not a number of a tensor")
    return tensors[content]


_FORMS: dict[str, Callable[[Any, Sequence[torch.Tensor]], Any]] = {
    "$tensor": _place,
    "$array": lambda content, tensors: _place(content, tensors).numpy(),
    "$float": lambda content, _: float(content),
    "$bytes": lambda content, _: bytes.fromhex(content),
    "$tuple": lambda content, tensors: tuple(_given(item, tensors) for item in content),
    "$dict": lambda content, tensors: {_given(key, tensors): _given(item, tensors) for key, item in content},
}
