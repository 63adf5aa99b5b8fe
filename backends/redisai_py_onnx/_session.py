"""One loaded ONNX model.

There are two ways to run it. The plain way passes numpy arrays to ONNX Runtime and gets numpy arrays back; it is the
cheapest. The bound way uses OrtValues and an IO binding: for a GPU, where outputs may stay on the device, and for
bfloat16, which ONNX Runtime's numpy bridge does not support. Strings can only go the plain way, because Python cannot
make OrtValues of strings.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from numpy import ndarray
from numpy.typing import NDArray

from redisai_py.backend import Array, TensorSpec, framework_error
from redisai_py.errors import BackendError, MemoryLimitExceeded
from redisai_py.tensor import Device, DType

__all__ = ["MEMORY_LIMIT_TEXT", "OnnxSession", "OrtDeviceArray", "is_known", "onnx_error"]

MEMORY_LIMIT_TEXT = "Onnxruntime memory limit exceeded, memory allocation failed."

_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from \S+ failed: ?)?")
_ARENA_FULL = re.compile(r"\S*bfc_arena\.cc.*is smaller than requested bytes of \d+")

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16
_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {f"tensor({dtype.name.lower()})": dtype.numpy_dtype for dtype in DType}
"""ONNX's names of dtypes are our names in lower case."""


def onnx_error(error: BaseException) -> BackendError:
    """ONNX Runtime's exception as a BackendError: without its prefix, and for a full arena with RedisAI's text."""
    text = _PREFIX.sub("", str(framework_error(error)))
    told = _ARENA_FULL.sub(MEMORY_LIMIT_TEXT, text)
    return BackendError(told) if told == text else MemoryLimitExceeded(told)


class OrtDeviceArray:
    """An output on the device it was computed on; implements `redisai_py.backend.DeviceArray`."""

    __slots__ = ("_owner", "ortvalue")

    def __init__(self, ortvalue: Any, owner: Any) -> None:
        self.ortvalue = ortvalue
        self._owner = owner  # the memory belongs to the session's allocator

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(self.ortvalue.shape())

    @property
    def nbytes(self) -> int:
        """Size in bytes on the device."""
        return int(self.ortvalue.tensor_size_in_bytes())

    def numpy(self) -> NDArray[Any]:
        """A C-contiguous copy in host memory."""
        return np.array(self.ortvalue.numpy(), order="C")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """A DLPack capsule of the same memory."""
        return self.ortvalue.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (device type, device id)."""
        kind, index = self.ortvalue.__dlpack_device__()
        return int(kind), int(index)


class OnnxSession:
    """Implements `redisai_py.backend.Session`.

    bound: whether runs use the IO binding (see above); may be set on any session without string inputs.
    """

    def __init__(self, session: Any, nbytes: int, device: Device, on_close: Callable[[], None]) -> None:
        self._session = session
        self._on_close = on_close
        self._device = ("cuda", device.index or 0) if device.kind == "GPU" else ("cpu", 0)
        self._run_options: dict[int, Any] = {}  # id of a thread in `run` -> its options
        self.inputs: Sequence[TensorSpec] = [_spec(node) for node in session.get_inputs()]
        self.outputs: Sequence[str] = [node.name for node in session.get_outputs()]
        self.output_specs: Sequence[TensorSpec] = [_spec(node) for node in session.get_outputs()]
        self.loops = False
        self.stateful = False  # no ONNX operator keeps state
        self.draws = self.branches = ""
        self.concurrent = device.kind == "CPU"  # on a GPU, concurrent runs take memory and save no time
        self.nbytes = nbytes
        self._input_names = [spec.name for spec in self.inputs]
        self._output_types = [node.type for node in session.get_outputs()]
        dtypes = [spec.dtype for spec in self.inputs] + [_NUMPY_DTYPES.get(name) for name in self._output_types]
        self._takes_strings = any(spec.dtype == object for spec in self.inputs)
        self.bound = not self._takes_strings and (device.kind == "GPU" or _BFLOAT16 in dtypes)
        # Numeric outputs need no check of their values, and nearly every model has only those.
        self._numeric = all(_is_numeric(name) for name in self._output_types)

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Run once; see `redisai_py.backend.Session.run`. A sequence, a map or an empty optional gives None.

        Raises: BackendError `ERR Expected <n> inputs but got <m>`, or ONNX Runtime's text.
        """
        if len(inputs) != len(self._input_names):
            raise BackendError(f"ERR Expected {len(self._input_names)} inputs but got {len(inputs)}")
        thread_id = get_ident()
        options = self._run_options[thread_id] = ort.RunOptions()
        try:
            if self.bound:
                return self._run_bound(inputs, keep_on_device, options)
            if self._takes_strings:
                inputs = [_decoded(value, name) for value, name in zip(inputs, self._input_names, strict=True)]
            else:
                self._refuse_strings(inputs)
            names = self._input_names
            # Most models have one input, and a call of `zip` takes as long as much of what surrounds it.
            feed = {names[0]: inputs[0]} if len(names) == 1 else dict(zip(names, inputs, strict=True))
            values = self._session._sess.run(self.outputs, feed, options)
            if self._numeric:
                return values  # type: ignore[no-any-return]
            return [_output_array(value) for value in values]
        except BackendError:
            raise
        except Exception as error:
            raise (self._unexpected_bfloat16(inputs) or onnx_error(error)) from error
        finally:
            del self._run_options[thread_id]

    def _refuse_strings(self, inputs: Sequence[Array]) -> None:
        """Refuse strings, with ONNX Runtime's text. It converts them first: 10 million take a second with the GIL."""
        for place, value in enumerate(inputs):
            if isinstance(value, ndarray) and value.dtype.hasobject:
                expected = self.inputs[place].says
                raise BackendError(f"Unexpected input data type. Actual: (tensor(string)) , expected: ({expected})")

    def _unexpected_bfloat16(self, inputs: Sequence[Array]) -> BackendError | None:
        """ONNX Runtime's error for an input of the wrong type, if that type is one it cannot name."""
        for value, node in zip(inputs, self._session.get_inputs(), strict=True):
            if isinstance(value, ndarray) and value.dtype == _BFLOAT16 and node.type != "tensor(bfloat16)":
                return BackendError(f"Unexpected input data type. Actual: (tensor(bfloat16)) , expected: ({node.type})")
        return None

    def terminate(self, thread_id: int | None = None) -> bool:
        """Make the run on that thread fail with `Exiting due to terminate flag being set to true`; None: every run.

        Takes effect between two nodes. Every run has its own options, so a late call never hits the next run.
        Returns: False if there is no such run.
        """
        running = self._run_options.copy()
        found = list(running.values()) if thread_id is None else [running[thread_id]] if thread_id in running else []
        for options in found:
            options.terminate = True
        return bool(found)

    def close(self) -> None:
        """Release the session with its weights, threads and arena."""
        if self._session is not None:
            self._session = None
            self._on_close()

    def _run_bound(self, inputs: Sequence[Array], keep_on_device: bool, options: Any) -> list[Array | None]:
        binding = self._session.io_binding()
        for name, value in zip(self._input_names, inputs, strict=True):
            binding.bind_ortvalue_input(name, _to_ortvalue(value))
        stays = [keep_on_device and _can_stay(name) for name in self._output_types]
        for name, on_device in zip(self.outputs, stays, strict=True):
            binding.bind_output(name, *(self._device if on_device else ("cpu", 0)))
        self._session.run_with_iobinding(binding, options)
        values = binding.get_outputs()
        return [
            OrtDeviceArray(value, self._session) if on_device else _from_ortvalue(value)
            for value, on_device in zip(values, stays, strict=True)
        ]


def _spec(node: Any) -> TensorSpec:
    if not node.shape:  # a scalar and a value of unknown rank look the same here
        return TensorSpec(node.name, _NUMPY_DTYPES.get(node.type), None, node.type)
    dims = tuple(dim if isinstance(dim, int) else None for dim in node.shape)
    return TensorSpec(node.name, _NUMPY_DTYPES.get(node.type), dims, node.type)


def is_known(type_name: str) -> bool:
    """Whether a tensor of ONNX's type has a dtype of ours, or ONNX Runtime returns it as one (FLOAT8 as bytes)."""
    return type_name in _NUMPY_DTYPES or "float8" in type_name


def _is_numeric(type_name: str) -> bool:
    dtype = _NUMPY_DTYPES.get(type_name)
    return dtype is not None and not dtype.hasobject


def _can_stay(type_name: str) -> bool:
    """Strings and containers exist only in host memory; ONNX Runtime alone could not copy bfloat16 back."""
    return _is_numeric(type_name) and _NUMPY_DTYPES[type_name] != _BFLOAT16


def _decoded(array: Array, name: str) -> Array:
    """Elements as `str`, the only form ONNX Runtime accepts; bytes that are not UTF-8 are refused."""
    if not isinstance(array, ndarray):
        return array.numpy()
    if not array.dtype.hasobject:
        return array
    decoded = np.empty(array.size, dtype=object)
    try:
        decoded[:] = [element.decode() if isinstance(element, bytes) else element for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise BackendError(f"ERR STRING input {name} is not UTF-8: {error.reason}") from error
    return decoded.reshape(array.shape)


def _output_array(value: Any) -> Array | None:
    """A value of ONNX Runtime's numpy bridge in the form that `Session.run` returns."""
    if not isinstance(value, ndarray):
        return None
    if value.dtype != object:
        return value
    encoded = np.empty(value.size, dtype=object)
    encoded[:] = [element.encode() if isinstance(element, str) else element for element in value.ravel().tolist()]
    return encoded.reshape(value.shape)


def _to_ortvalue(array: Array) -> Any:
    if isinstance(array, OrtDeviceArray):
        return array.ortvalue
    if not isinstance(array, ndarray):
        return ort.OrtValue.from_dlpack(array)
    if array.dtype == _BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_ortvalue(value: Any) -> Array | None:
    """A value in host memory as an array; None if it is not a tensor."""
    if not value.has_value() or not value.is_tensor():
        return None
    if value.data_type() == "tensor(bfloat16)":
        data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        return np.frombuffer(data, _BFLOAT16).reshape(value.shape())
    return _output_array(value.numpy())
