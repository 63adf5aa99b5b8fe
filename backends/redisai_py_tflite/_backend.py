"""The TFLITE backend, on LiteRT's interpreter.

Sources: AI.MODELSTORE for RedisAI's error texts, which stand before the interpreter's own. The names are those of the
file's signature, or of its tensors if it has none. Beyond RedisAI: inputs of BOOL, STRING, FLOAT16, UINT16, UINT32 and
UINT64 work.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from redisai_py.backend import Array, Blob, LoadOptions, ModelFile, TensorSpec, framework_error
from redisai_py.errors import BackendError
from redisai_py.tensor import Device, DType
from redisai_py_tflite._state import may_keep_state

__all__ = ["TfliteBackend", "TfliteSession"]

_STRING = np.dtype(object)


class TfliteBackend:
    """LiteRT. Thread: any; sessions share nothing."""

    name = "TFLITE"
    version: str = metadata.version("ai-edge-litert")

    def check_device(self, device: Device) -> None:
        """Refuse GPU: the interpreter's package brings no GPU delegate that works on a server."""
        if device.kind == "GPU":
            raise BackendError("Failed to set GPU delegate")

    def load_model(
        self,
        blob: Blob,
        device: Device,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: LoadOptions,
    ) -> TfliteSession:
        """Build a session; `inputs` and `outputs` are ignored, since a flatbuffer names its tensors.

        Raises: BackendError: GPU; no flatbuffer; an interpreter that cannot be built or allocated.
        """
        self.check_device(device)
        if not blob:
            raise BackendError("Failed to load model from buffer: it is empty")
        try:
            source = {"model_path": blob.path} if isinstance(blob, ModelFile) else {"model_content": blob}
            interpreter = Interpreter(**source, num_threads=options.intra_op_threads or None)
        except ValueError as error:
            raise framework_error(error, "Failed to load model from buffer: ") from error
        except Exception as error:
            raise framework_error(error, "Failed to construct interpreter: ") from error
        _step("Failed to allocate tensors", interpreter.allocate_tensors)
        return TfliteSession(interpreter, len(blob), may_keep_state(blob))

    load_file = load_model


class TfliteSession:
    """Implements `redisai_py.backend.Session`."""

    def __init__(self, interpreter: Any, nbytes: int, stateful: bool) -> None:
        self._interpreter = interpreter
        details = interpreter.get_input_details()
        outputs = interpreter.get_output_details()
        input_names, output_names = _names(interpreter, details, outputs)
        self._input_indices = [detail["index"] for detail in details]
        self._dtypes = [_dtype(detail) for detail in details]
        self._shapes: list[tuple[int, ...] | None] = [tuple(detail["shape"].tolist()) for detail in details]
        self._output_indices = [detail["index"] for detail in outputs]
        self._returnable = all(DType.from_numpy(_dtype(detail)) for detail in outputs)
        self.inputs: Sequence[TensorSpec] = [
            TensorSpec(name, _dtype(detail), _shape(detail)) for name, detail in zip(input_names, details, strict=True)
        ]
        self.output_specs: Sequence[TensorSpec] = [
            TensorSpec(name, _dtype(detail), _shape(detail)) for name, detail in zip(output_names, outputs, strict=True)
        ]
        self.outputs: Sequence[str] = output_names
        self.nbytes = nbytes
        self.stateful = stateful

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Run once; the model's inputs are resized to the given shapes. See `redisai_py.backend.Session.run`.

        Raises: BackendError with RedisAI's text for the step that failed.
        """
        arrays = self._checked(inputs)
        if self._shapes != [array.shape for array in arrays]:
            self._resize(arrays)
        for index, array in zip(self._input_indices, arrays, strict=True):
            _step("Failed to allocate tensors", self._interpreter.set_tensor, index, array)
        _step("Failed to invoke TfLite", self._interpreter.invoke)
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def terminate(self) -> bool:
        """The interpreter cannot be interrupted."""
        return False

    def close(self) -> None:
        """Drop the interpreter with its tensors."""
        self._interpreter = None

    def _checked(self, inputs: Sequence[Array]) -> list[Any]:
        if len(inputs) != len(self._dtypes):
            raise BackendError("Inconsistent number of inputs")
        if not self._returnable:
            raise BackendError("Unsupported output data type")
        arrays = [array if isinstance(array, np.ndarray) else array.numpy() for array in inputs]
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype:
                raise BackendError("Input tensor type doesn't match the type expected by the model definition")
        return arrays

    def _resize(self, arrays: Sequence[Any]) -> None:
        """Give every input its new shape. Until all of it has succeeded, no shape counts as set."""
        self._shapes = [None] * len(arrays)
        for index, array in zip(self._input_indices, arrays, strict=True):
            _step("Failed to resize input tensors", self._interpreter.resize_tensor_input, index, array.shape)
        _step("Failed to allocate tensors", self._interpreter.allocate_tensors)
        self._shapes = [array.shape for array in arrays]


def _step(text: str, function: Any, *args: Any) -> None:
    """Call the interpreter; its own words follow RedisAI's."""
    try:
        function(*args)
    except Exception as error:
        raise framework_error(error, f"{text}: ") from error


def _names(interpreter: Any, inputs: Any, outputs: Any) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs, in the interpreter's order: of the first signature with these very tensors."""
    for signature in interpreter._get_full_signature_list().values():
        found = [
            _named({index: name for name, index in signature[kind].items()}, details)
            for kind, details in (("inputs", inputs), ("outputs", outputs))
        ]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return [detail["name"] for detail in inputs], [detail["name"] for detail in outputs]


def _named(names: dict[int, str], details: Any) -> list[str] | None:
    if any(detail["index"] not in names for detail in details):
        return None
    return [names[detail["index"]] for detail in details]


def _dtype(detail: Any) -> np.dtype[Any]:
    dtype = np.dtype(detail["dtype"])
    return _STRING if dtype.kind == "S" else dtype


def _shape(detail: Any) -> tuple[int | None, ...]:
    return tuple(None if dim < 0 else dim for dim in detail["shape_signature"].tolist())
