"""Calling a compiled function: binding its parameters, and converting its result to a list of tensors.

Source: 7.1 to 7.4 of RedisAI's script commands, which define these error texts. Does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from redisai_py.errors import BackendError
from redisai_py_torch.script_language import Unit

__all__ = ["Call", "call", "flatten"]

# pybind11 appends this to errors of operators written in Python: our own files, useless to the script's author.
_PYTHON_FRAMES = re.compile(r"\n\nAt:\n(?:  .*\n)+\n?")


class Call:
    """A function of a unit with all of its arguments but the tensors; to be called many times.

    Args:   entry_point: the function takes three lists: tensors, `keys` and `args`. Any other one takes tensors: a
            parameter `Tensor` takes one input, `List[Tensor]` all remaining ones and ends the binding; surplus inputs
            are ignored.
            outputs: number of tensors expected, 0 discards the result.
    Raises: BackendError: no such function.
    """

    def __init__(
        self, unit: Unit, name: str, entry_point: bool, keys: Sequence[bytes], args: Sequence[bytes], outputs: int
    ) -> None:
        self._unit = unit
        self._name = name
        self._function = unit.function(name)
        if self._function is None:
            raise BackendError(f"Function does not exist: {name}")
        self._strings = [list(keys), list(args)] if entry_point else None
        self._kinds = [str(parameter.type) for parameter in self._function.schema.arguments]
        self._outputs = outputs

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs; to be called in inference mode.

        Raises: BackendError: too few inputs, or a parameter of another type; with the interpreter's message.
                MemoryError: an allocation was refused.
        """
        arguments = self._bound(inputs) if self._strings is None else [inputs, *self._strings]
        return flatten(self._name, call(self._unit, self._function, arguments), self._outputs)

    def _bound(self, inputs: list[torch.Tensor]) -> list[Any]:
        if len(self._kinds) > len(inputs):
            raise BackendError(f"Wrong number of inputs provided to function: {self._name}")
        arguments: list[Any] = []
        for at, kind in enumerate(self._kinds):
            if kind == "List[Tensor]":
                arguments.append(inputs[at:])
                break
            if kind != "Tensor":
                raise BackendError(f"Unsupported input type in function definition: {self._name}")
            arguments.append(inputs[at])
        return arguments


def call(unit: Unit, function: Any, arguments: Sequence[Any]) -> Any:
    """Run the function; to be called in inference mode.

    Raises: BackendError with the interpreter's message.   MemoryError: an allocation was refused.
    """
    try:
        return function(*arguments)
    except UnicodeDecodeError:
        return None  # the run succeeded, but its result is a string that is not UTF-8, so not a tensor
    except MemoryError:
        raise
    except Exception as error:  # RuntimeError, torch.jit.Error, and pybind11's translations of C++ exceptions
        if _is_memory(error):
            raise MemoryError(unit.message(str(error))) from error
        raise BackendError(unit.message(_PYTHON_FRAMES.sub("\n", str(error)))) from error


def _is_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in ("can't allocate memory", "std::bad_alloc", "std::length_error", "MemoryError"))


def flatten(name: str, result: Any, outputs: int) -> list[torch.Tensor]:
    """The tensors in a function's result: a tensor, a list or tuple of tensors, or a tuple of these.

    Raises: BackendError: it contains another value, or the number of tensors is not `outputs` (0 discards the result
    unchecked).
    """
    if outputs == 0:
        return []
    tensors = [result] if isinstance(result, torch.Tensor) else result
    if not isinstance(tensors, list | tuple) or not all(isinstance(item, torch.Tensor) for item in tensors):
        raise BackendError(f"Function returned non-tensor values{name}")
    if len(tensors) != outputs:
        raise BackendError(f"Function returned unexpected number of outputs - {name}")
    return list(tensors)
