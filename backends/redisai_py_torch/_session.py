"""One loaded PyTorch model: a callable on tensors, and what is needed to call it safely.

A run shares the inputs' memory with the caller, and its outputs may be parts of inputs or weights. Therefore:
* a model that writes to memory in place, or keeps state, gets copies of its inputs, and its outputs are copied;
* any other model gets the inputs themselves, and an output is copied only if it is part of an input or a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from redisai_py.backend import Array, TensorSpec, framework_error
from redisai_py.errors import BackendError
from redisai_py_torch._convert import TorchDeviceArray, to_array, to_tensor

__all__ = ["LoadedModel", "TorchSession"]

_NON_TENSOR = "Function returned non-tensor valuesforward"
_WRONG_COUNT = "Function returned unexpected number of outputs - forward"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in either format.

    call: takes one tensor per input, and returns the tensors of its result in order.
    weights: parameters, buffers and constants.
    writes: whether a run may write to its inputs or to the model's own tensors.
    stateful: whether a run may affect later runs.
    draws: operators that draw random numbers or are in training mode.   loops: whether the duration of a run depends on
    values.   branches: operators that let values of the inputs decide the control flow.
    """

    call: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[torch.Tensor, ...]
    writes: bool
    stateful: bool
    draws: str = ""
    loops: bool = False
    branches: str = ""


class TorchSession:
    """Implements `redisai_py.backend.Session`. Output names are empty strings, as in RedisAI."""

    def __init__(self, model: LoadedModel, blob_size: int, device: torch.device) -> None:
        self._call: Callable[..., Any] | None = model.call
        self._writes = model.writes
        self._gpu = device if device.type == "cuda" else None
        storages = [weight.untyped_storage() for weight in model.weights]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self._weights = frozenset(held)
        self.inputs: Sequence[TensorSpec] = model.inputs
        self.outputs: Sequence[str] = ("",) * len(model.outputs)
        self.output_specs: Sequence[TensorSpec] = model.outputs
        self.stateful = model.stateful
        self.draws = model.draws
        self.loops = model.loops
        self.branches = model.branches
        self.concurrent = device.type == "cpu"  # the threads of one process share a GPU's stream
        # Count actual memory, not apparent sizes: a buffer of stride 0 claims terabytes and holds one element.
        self.nbytes = max(blob_size, sum(held.values()))

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Call `forward` without gradients; see `redisai_py.backend.Session.run`.

        Raises: BackendError with PyTorch's text, or with RedisAI's if `forward` returned something else than tensors.
        """
        assert self._call is not None, "run after close"
        try:
            tensors = [to_tensor(array, self._gpu, self._writes) for array in inputs]
            with torch.inference_mode():
                results = _flatten(self._call(*tensors))
                if len(results) != len(self.outputs):
                    raise BackendError(_WRONG_COUNT)
                return self._arrays(tensors, results, keep_on_device)
        except BackendError:
            raise
        except Exception as error:
            raise framework_error(error) from error

    def terminate(self, thread_id: int | None = None) -> bool:
        """False: PyTorch cannot be interrupted."""
        return False

    def close(self) -> None:
        """Release the model, and return CUDA memory to the device for other processes."""
        self._call = None
        if self._gpu is not None:
            torch.cuda.empty_cache()

    def _arrays(
        self, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor], keep_on_device: bool
    ) -> list[Array | None]:
        if keep_on_device and self._gpu is not None:
            kept = [result.clone() if self._writes else result.contiguous() for result in results]
            torch.cuda.current_stream(self._gpu).synchronize()  # other frameworks read on their own streams
            return [TorchDeviceArray(result) for result in kept]
        if self._writes:
            results = [result.clone() for result in results]
        foreign = {tensor.untyped_storage().data_ptr() for tensor in tensors} | self._weights
        return [to_array(result, foreign) for result in results]


def _flatten(value: Any) -> list[torch.Tensor]:
    """The tensors of a result, in order: one tensor, or nested tuples, lists and dictionaries of tensors."""
    if isinstance(value, torch.Tensor):
        return [value]
    if value is None:
        return []
    if isinstance(value, (tuple, list)):
        return [tensor for member in value for tensor in _flatten(member)]
    if isinstance(value, dict):
        return [tensor for member in value.values() for tensor in _flatten(member)]
    raise BackendError(_NON_TENSOR)
