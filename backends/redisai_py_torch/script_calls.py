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

__all__ = ["bind", "call", "flatten"]

# pybind11 appends this to errors of operators written in Python: our own files, useless to the script's author.
_PYTHON_FRAMES = re.compile(r"\n\nAt:\n(?:  .*\n)+\n?")


def bind(unit: Unit, name: str, inputs: Sequence[torch.Tensor]) -> tuple[Any, list[Any]]:
    """The function and arguments of a call to a function that is not an entry point.

    A `Tensor` parameter takes one input. A `List[Tensor]` parameter takes all remaining ones and ends the binding.
    Surplus inputs are ignored.

    Raises: BackendError: no such function, too few inputs, or a parameter of another type.
    """
    function = unit.function(name)
    if function is None:
        raise BackendError(f"Function does not exist: {name}")
    parameters = function.schema.arguments
    if len(parameters) > len(inputs):
        raise BackendError(f"Wrong number of inputs provided to function: {name}")
    arguments: list[Any] = []
    for at, parameter in enumerate(parameters):
        kind = str(parameter.type)
        if kind == "List[Tensor]":
            arguments.append(list(inputs[at:]))
            break
        if kind != "Tensor":
            raise BackendError(f"Unsupported input type in function definition: {name}")
        arguments.append(inputs[at])
    return function, arguments


def call(unit: Unit, function: Any, arguments: Sequence[Any]) -> Any:
    """Run the function without gradients.

    Raises: BackendError with the interpreter's message.   MemoryError: an allocation was refused.
    """
    try:
        with torch.inference_mode():
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
