"""The TFLITE backend, on LiteRT's interpreter.

Sources: AI.MODELSTORE for RedisAI's error texts, which precede the interpreter's own. Names are those of the file's
signature, or of its tensors if it has none. Beyond RedisAI: inputs of BOOL, STRING, FLOAT16, UINT16, UINT32 and UINT64
work.
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
from redisai_py_tflite._branches import what_branches
from redisai_py_tflite._program import Program, program, subgraph
from redisai_py_tflite._state import Traits, traits_of

__all__ = ["TfliteBackend", "TfliteSession"]


class TfliteBackend:
    """LiteRT. Thread: any; sessions share nothing."""

    name = "TFLITE"
    version: str = metadata.version("ai-edge-litert")

    def check_device(self, device: Device) -> None:
        """Refuse GPU: the interpreter's package has no GPU delegate for servers."""
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
        """Build a session; `inputs` and `outputs` are ignored, because a flatbuffer contains its names.

        Args:   options: `extra["signature"]` selects the program to run; by default the main one.
        Raises: BackendError: GPU; not a flatbuffer; the interpreter cannot be built or allocated; no such signature.
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
        signature = options.extra.get("signature", "")
        main = program(interpreter, blob, signature)
        return TfliteSession(main, len(blob), traits_of(blob), what_branches(blob, subgraph(blob, signature)))

    load_file = load_model


class TfliteSession:
    """Implements `redisai_py.backend.Session`."""

    def __init__(self, program: Program, nbytes: int, traits: Traits, branches: str) -> None:
        self._program: Program | None = program
        self._dtypes = [spec.dtype for spec in program.inputs]
        self._returnable = all(spec.dtype and DType.from_numpy(spec.dtype) for spec in program.outputs)
        self.inputs: Sequence[TensorSpec] = program.inputs
        self.output_specs: Sequence[TensorSpec] = program.outputs
        self.outputs: Sequence[str] = [spec.name for spec in program.outputs]
        self.nbytes = nbytes
        self.stateful, self.loops, self.draws = traits
        self.branches = branches

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Run once, after resizing the model's inputs to the given shapes. See `redisai_py.backend.Session.run`.

        Raises: BackendError with RedisAI's text for the step that failed.
        """
        assert self._program is not None, "run after close"
        return self._program.run(self._checked(inputs))

    def terminate(self) -> bool:
        """False: the interpreter cannot be interrupted."""
        return False

    def close(self) -> None:
        """Release the interpreter with its tensors."""
        self._program = None

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
