"""Inputs, outputs, failures and model files as messages, on the server's side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from redisai_py import errors
from redisai_py.backend import Array
from redisai_py.blobs import Blob, ModelFile
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.lane import Answer
from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.wire import Layout, Part
from redisai_py.errors import BackendError, MemoryLimitExceeded, ProtocolError, RedisAIError
from redisai_py.tensor import Tensor

__all__ = ["ModelGone", "RemoteArray", "failure", "file_of", "outputs_of", "request_of"]

_CUDA = 2

logger = structlog.get_logger()


class ModelGone(BackendError):
    """The process does not have the model any more: it has moved to another one, or to the server."""


class RemoteArray:
    """A value on a GPU, in the process that owns it: a `backend.DeviceArray`.

    Args: fetch: returns a copy in this process's memory.
    """

    def __init__(self, part: Part, process: EngineProcess, index: int, fetch: Callable[[], NDArray[Any]]) -> None:
        number, *dims = part.shape
        self.number = number
        self.shape = tuple(dims)
        self.nbytes = part.nbytes
        self.process = process
        self._index = index
        self._fetch = fetch

    def numpy(self) -> NDArray[Any]:
        """See DeviceArray."""
        return self._fetch()

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """See DeviceArray. Raises: BufferError, always."""
        raise BufferError("the value lies in another process")

    def __dlpack_device__(self) -> tuple[int, int]:
        """See DeviceArray."""
        return (_CUDA, self._index)


def file_of(blob: Blob) -> int:
    """A file with the model's bytes; the caller closes it. Raises: OSError."""
    if isinstance(blob, ModelFile):
        return os.dup(blob.fileno())
    fd = os.memfd_create("redisai-model", os.MFD_CLOEXEC)
    try:
        left = memoryview(blob)
        while left:
            left = left[os.write(fd, left) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def request_of(inputs: Sequence[Array], process: EngineProcess) -> tuple[Layout, Sequence[Any]]:
    """The message parts for a run's inputs; values in that same process are sent as their numbers."""
    if all([type(value) is np.ndarray and not value.dtype.hasobject for value in inputs]):
        return memory.sized(inputs), inputs  # type: ignore[arg-type]  # arrays, as just seen
    parts: list[Part] = []
    data: list[Any] = []
    for value in inputs:
        if isinstance(value, RemoteArray) and value.process is process:
            parts.append(Part(wire.ON_DEVICE, (value.number, *value.shape), 0))
            data.append(None)
            continue
        tensor = Tensor.from_numpy(value if isinstance(value, np.ndarray) else value.numpy())
        parts.append(Part(wire.code_of(tensor.dtype), tensor.shape, len(tensor.data)))
        data.append(bytes(tensor.data))
    return wire.layout(parts), data


def outputs_of(answer: Answer, held: Callable[[Part], Array | None]) -> list[Array | None]:
    """The outputs of a run, in their own memory.

    Args:   held: makes a value that stayed in the process.
    Raises: ProtocolError.
    """
    return [
        held(part) if part.code == wire.ON_DEVICE else memory.array_at(answer.message, part, own=True)
        for part in memory.parsed(answer.header, len(answer.message))
    ]


def failure(answer: Answer) -> RedisAIError:
    """The error of a request that failed in the process, with the text that it would have in the server."""
    try:
        fields = json.loads(answer.header)
        kind, text = str(fields["type"]), str(fields["text"])
        if stack := str(fields.get("stack", "")):
            logger.warning("a plugin failed", exception=stack)
    except (ValueError, TypeError, KeyError):
        return ProtocolError("ERR an engine process sent a malformed failure")
    if kind == "memory":
        limit = "the memory limit of the engine process (--engine-memory-limit-mb)"
        return MemoryLimitExceeded(f"ERR {limit} is reached: {text}")
    if kind == "gone":
        return ModelGone("ERR the model has left its engine process")
    if kind == "plugin":
        return BackendError(f"ERR {text}")
    found = getattr(errors, kind, None)
    return (
        found(text)
        if isinstance(found, type) and issubclass(found, BackendError | errors.ShapeMismatch)
        else BackendError(text)
    )
