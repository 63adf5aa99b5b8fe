"""The programs in a flatbuffer: the main one, which runs by default, and those of other signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from redisai_py.backend import Blob, TensorSpec, framework_error
from redisai_py.errors import BackendError

__all__ = ["Program", "program", "subgraph"]

_STRING = np.dtype(object)


class Program(Protocol):
    """A program that a session can run."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run once, with inputs of the arrays' shapes.

        Raises: BackendError with RedisAI's text for the step that failed.
        """


def program(interpreter: Any, blob: Blob, signature: str) -> Program:
    """The program of a signature; the main one if the name is empty.

    Raises: BackendError: no such signature, or no memory for the tensors.
    """
    signatures = _signatures(interpreter)
    if signature and signature not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise BackendError(f'ERR TFLITE model has no signature "{signature}", but: {known}')
    if not signature or subgraph(blob, signature) == 0:
        _step("Failed to allocate tensors", interpreter.allocate_tensors)
        return _Main(interpreter, [signatures[signature]] if signature else list(signatures.values()))
    return _Other(interpreter, blob, signature)


def _signatures(interpreter: Any) -> dict[str, dict[str, dict[str, int]]]:
    """Per signature, "inputs" and "outputs": the index of each tensor by its name. One without a name is left out."""
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list() if name}
    return {
        name: {
            "inputs": {tensor: detail["index"] for tensor, detail in runner.get_input_details().items()},
            "outputs": {tensor: detail["index"] for tensor, detail in runner.get_output_details().items()},
        }
        for name, runner in runners.items()
    }


class _Main:
    """The first subgraph, run by the interpreter's own functions, which remember the shapes."""

    def __init__(self, interpreter: Any, signatures: Sequence[Any]) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        input_names, output_names = _names(signatures, inputs, outputs)
        self._input_indices = [detail["index"] for detail in inputs]
        self._output_indices = [detail["index"] for detail in outputs]
        self._shapes: list[tuple[int, ...] | None] = [tuple(detail["shape"].tolist()) for detail in inputs]
        self.inputs: Sequence[TensorSpec] = [
            _spec(name, detail) for name, detail in zip(input_names, inputs, strict=True)
        ]
        self.outputs: Sequence[TensorSpec] = [
            _spec(name, detail) for name, detail in zip(output_names, outputs, strict=True)
        ]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """See `Program.run`."""
        if self._shapes != [array.shape for array in arrays]:
            self._resize(arrays)
        for index, array in zip(self._input_indices, arrays, strict=True):
            _step("Failed to allocate tensors", self._interpreter.set_tensor, index, array)
        _step("Failed to invoke TfLite", self._interpreter.invoke)
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def _resize(self, arrays: Sequence[Any]) -> None:
        """Resize every input. Until all of this has succeeded, no shape counts as set."""
        self._shapes = [None] * len(arrays)
        for index, array in zip(self._input_indices, arrays, strict=True):
            _step("Failed to resize input tensors", self._interpreter.resize_tensor_input, index, array.shape)
        _step("Failed to allocate tensors", self._interpreter.allocate_tensors)
        self._shapes = [array.shape for array in arrays]


class _Other:
    """Another subgraph, run by its signature's runner."""

    def __init__(self, interpreter: Any, blob: Blob, signature: str) -> None:
        self._runner = interpreter.get_signature_runner(signature)
        graph = _model(blob).Subgraphs(subgraph(blob, signature))
        inputs, outputs = (
            sorted(
                (_spec(name, detail) for name, detail in details.items()),
                key=lambda spec: _place(details[spec.name]["index"], tensors),
            )
            for details, tensors in (
                (self._runner.get_input_details(), graph.InputsAsNumpy()),
                (self._runner.get_output_details(), graph.OutputsAsNumpy()),
            )
        )
        self.inputs: Sequence[TensorSpec] = inputs
        self.outputs: Sequence[TensorSpec] = outputs

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """See `Program.run`."""
        named = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            results = self._runner(**named)
        except Exception as error:
            raise framework_error(error, "Failed to invoke TfLite: ") from error
        return [results[spec.name] for spec in self.outputs]


def _model(blob: Blob) -> Any:
    return schema.Model.GetRootAs(blob, 0)


def subgraph(blob: Blob, signature: str) -> int:
    """The number of a signature's subgraph; 0, the main one, without a signature."""
    model = _model(blob)
    for at in range(model.SignatureDefsLength()):
        definition = model.SignatureDefs(at)
        if definition.SignatureKey() == signature.encode():
            return int(definition.SubgraphIndex())
    return 0


def _place(index: int, tensors: Any) -> int:
    """Position of a tensor among a subgraph's inputs or outputs."""
    order = [int(tensor) for tensor in np.atleast_1d(tensors)]
    return order.index(index) if index in order else len(order)


def _names(signatures: Sequence[Any], inputs: Any, outputs: Any) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs, in the interpreter's order, from the first signature with exactly these tensors."""
    for signature in signatures:
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


def _spec(name: str, detail: Any) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    shape = tuple(None if dim < 0 else dim for dim in detail["shape_signature"].tolist())
    return TensorSpec(name, _STRING if dtype.kind == "S" else dtype, shape)


def _step(text: str, function: Any, *args: Any) -> None:
    """Call the interpreter; on failure, its text follows RedisAI's."""
    try:
        function(*args)
    except Exception as error:
        raise framework_error(error, f"{text}: ") from error
