"""Inputs, outputs and failures of runs as messages, on the engine process's side. `messages` is the server's side."""

from __future__ import annotations

import json
import re
import resource
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from redisai_py.backend import Array, DeviceArray
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.hosted import Unloaded
from redisai_py.engine.isolation.wire import Layout, Part
from redisai_py.engine.merging import to_value
from redisai_py.errors import BackendError, MemoryLimitExceeded, RedisAIError
from redisai_py.tensor import DType, Tensor

__all__ = ["HeldValues", "failure_of", "json_message"]

_NUMPYS_OWN = {dtype.numpy_dtype for dtype in DType if dtype is not DType.STRING}
_ERRORS = {"ShapeMismatch", "BackendNotInstalled", "BackendError", "MemoryLimitExceeded", "RedisAIError"}
_MOST_STACK = 8192
_NO_MEMORY = re.compile(r"bad.?alloc|can(?:no|')t allocate memory|failed to allocate memory|OOM when allocating", re.I)
"""What frameworks say when the system refuses memory, in this order: C++, PyTorch, ONNX Runtime, TensorFlow."""


class HeldValues:
    """Values that stay on the device, by number; the server knows them by these numbers."""

    def __init__(self) -> None:
        self._held: dict[int, DeviceArray] = {}
        self._numbers = 0
        self._lock = threading.Lock()
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        self._most_bytes = sys.maxsize if limit == resource.RLIM_INFINITY else limit // 4

    def __getitem__(self, number: int) -> DeviceArray:
        return self._held[number]

    def drop(self, number: int) -> None:
        """Let go of a value."""
        self._held.pop(number, None)

    def inputs(self, parts: Sequence[Part], request: memoryview) -> list[Array]:
        """The inputs of a run: views of the message, or values held here."""
        inputs: list[Array] = []
        for part in parts:
            if part.code == wire.ON_DEVICE:
                inputs.append(self._held[part.shape[0]])
            else:
                array = memory.array_at(request, part, own=False)
                assert array is not None
                inputs.append(array)
        return inputs

    def outputs(self, outputs: Sequence[Any]) -> tuple[Layout, Sequence[Any]]:
        """The outputs of a run as the layout of a message and its data, for `memory.write`.

        Raises: MemoryLimitExceeded: they would take too much of the server's memory, which has no limit.
        """
        layout, data = self._message(outputs)
        if layout.total > self._most_bytes:
            text = f"the outputs take {layout.total} bytes, more than a quarter of --engine-memory-limit-mb"
            raise MemoryLimitExceeded(f"ERR {text}")
        return layout, data

    def _message(self, outputs: Sequence[Any]) -> tuple[Layout, Sequence[Any]]:
        if all([isinstance(output, np.ndarray) and output.dtype in _NUMPYS_OWN for output in outputs]):
            return memory.sized(outputs), outputs
        parts: list[Part] = []
        data: list[Any] = []
        for output in outputs:
            value = to_value(output)
            if isinstance(value, Tensor):
                parts.append(Part(wire.code_of(value.dtype), value.shape, len(value.data)))
                data.append(bytes(value.data))
            elif value is None:
                parts.append(Part(wire.NONE, (), 0))
                data.append(None)
            else:  # it has a size, and no data in the message
                parts.append(Part(wire.ON_DEVICE, (self._hold(value), *value.shape), 0))
                data.append(None)
        return wire.layout(parts), data

    def _hold(self, value: DeviceArray) -> int:
        with self._lock:
            self._numbers += 1
            self._held[self._numbers] = value
            return self._numbers


def json_message(fields: dict[str, Any]) -> Layout:
    """A message that is JSON."""
    header = json.dumps(fields).encode()
    return Layout(header, (), wire.aligned(len(header)))


def failure_of(error: BaseException) -> Layout:
    """What the server is told of a request that failed."""
    refused = isinstance(error, BackendError) and _NO_MEMORY.search(str(error))
    if isinstance(error, Unloaded):
        fields = {"type": "gone", "text": ""}
    elif refused or isinstance(error.__cause__, MemoryError):  # the latter in a load, which has the framework's words
        fields = {"type": "memory", "text": str(error).removeprefix("ERR ")}
    elif isinstance(error, RedisAIError) and type(error).__name__ in _ERRORS:
        fields = {"type": type(error).__name__, "text": str(error)}
    else:
        stack = traceback.format_exc()[-_MOST_STACK:]  # a plugin's own failure: the server's log gets it
        text = str(error).replace("\n", " ").replace("\r", " ")
        text = text if text.strip() else type(error).__name__
        kind = "memory" if isinstance(error, MemoryError) else "plugin"
        fields = {"type": kind, "text": text, "stack": stack}
    error.__traceback__ = None
    return json_message(fields)
