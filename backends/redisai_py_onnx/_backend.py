"""The ONNX backend: device checks, session options and the memory limit; runs are in `_session`.

Sources: AI.MODELSTORE; RedisAI's load-time settings BACKEND_MEMORY_LIMIT, INTRA_OP_PARALLELISM, INTER_OP_PARALLELISM.
Error texts are RedisAI's where it has one, otherwise ONNX Runtime's without the prefix `[ONNXRuntimeError] : 1 : FAIL`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from redisai_py.backend import Blob, LoadOptions, ModelFile
from redisai_py.errors import BackendError, MemoryLimitExceeded
from redisai_py.tensor import Device
from redisai_py_onnx._branches import what_branches
from redisai_py_onnx._external_data import has_external_data
from redisai_py_onnx._session import MEMORY_LIMIT_TEXT, OnnxSession, is_known, onnx_error

__all__ = ["OnnxBackend"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_NO_CUDA = "ERR GPU requested but ONNX couldn't find CUDA"
_LOOP = b'"\x04Loop'
"""NodeProto.op_type of a loop. Weights may contain these bytes by chance; then the model just gets no warm-up."""
_NO_PROTOBUF = "Failed to load model because protobuf parsing failed"
"""ONNX Runtime's text."""
_TINY = (
    b'\x08\x08:Z\n\x13\n\x01x\n\x06factor\x12\x01y"\x03Mul\x12\x05model*\x10\x10\x01B\x06factorJ\x04\x00\x00\x00@'
    b"Z\x14\n\x01x\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x02"
    b"b\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x02B\x04\n\x00\x10\x11"
)
"""A model: y = 2 x."""
_FATAL_ONLY = 4
_SAME_AS_REQUESTED = 1

# Every failure reaches the client as a reply, so nothing needs to go to the server's stderr.
ort.set_default_logger_severity(_FATAL_ONLY)


class OnnxBackend:
    """ONNX Runtime. Thread: any; sessions share only the arena of a memory limit."""

    name = "ONNX"
    version: str = ort.__version__

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arena_limit_bytes = 0
        self._weights_bytes = 0

    def check_device(self, device: Device) -> None:
        """Refuse GPU unless this build of ONNX Runtime has the CUDA provider."""
        if device.kind == "GPU" and _CUDA not in ort.get_available_providers():
            raise BackendError(_NO_CUDA)

    def load_model(
        self,
        blob: Blob,
        device: Device,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: LoadOptions,
    ) -> OnnxSession:
        """Build a session; `inputs` and `outputs` are ignored, because an ONNX model contains its own names.

        Raises: BackendError: no CUDA; weights in other files; over the memory limit; an input that is a
                sequence, a map or an optional; or ONNX Runtime refuses the model.
        """
        self.check_device(device)
        drawing = _look_through(blob)
        if options.memory_limit_bytes:
            self._reserve(len(blob), options.memory_limit_bytes)
        try:
            session = _create(blob, device, options)
        except BaseException:
            self._release(len(blob), options)
            raise
        try:
            _refuse_what_no_tensor_is(session)
        except BackendError:
            self._release(len(blob), options)
            raise
        loaded = OnnxSession(session, len(blob), device, on_close=lambda: self._release(len(blob), options))
        loaded.loops = blob.find(_LOOP) >= 0
        loaded.draws = ", ".join(sorted(drawing))
        loaded.branches = what_branches(blob, [spec.name for spec in loaded.inputs])
        return loaded

    load_file = load_model

    def warm_up(self) -> None:
        """See WarmsUp: has ONNX Runtime make its tables of operators."""
        options = LoadOptions(intra_op_threads=1, inter_op_threads=1)  # with more, it would start threads
        self.load_model(_TINY, Device("CPU", None, "CPU"), (), (), options).close()

    def _reserve(self, size_bytes: int, limit_bytes: int) -> None:
        """Count a model's weights against the limit, and set the limit of the arena that all sessions share.

        ONNX Runtime's arena does not count initializers against max_mem, so we count them ourselves.
        """
        with self._lock:
            if self._weights_bytes + size_bytes > limit_bytes:
                raise MemoryLimitExceeded(f"Exception during initialization: {MEMORY_LIMIT_TEXT}")
            self._weights_bytes += size_bytes
            if self._arena_limit_bytes != limit_bytes:
                _register_arena(limit_bytes)
                self._arena_limit_bytes = limit_bytes

    def _release(self, size_bytes: int, options: LoadOptions) -> None:
        if options.memory_limit_bytes:
            with self._lock:
                self._weights_bytes -= size_bytes


def _refuse_what_no_tensor_is(session: Any) -> None:
    """Raise BackendError for an input or output that is not a supported tensor: the model could never run."""
    for node in session.get_inputs():
        if not node.type.startswith("tensor("):
            raise BackendError(
                f"ERR input {node.name} is a {node.type}, which is not a tensor; "
                "let the model take each tensor as an input of its own"
            )
    for what, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for node in nodes:
            if node.type.startswith("tensor(") and not is_known(node.type):
                raise BackendError(f"ERR {what} {node.name} is a {node.type}, which no tensor here is; cast it")


def _look_through(blob: Blob) -> set[str]:
    """Names of operators that draw random numbers. Raises BackendError: weights in other files."""
    drawing: set[str] = set()
    try:
        external = has_external_data(blob, drawing)
    except ValueError as error:
        raise BackendError(f"{_NO_PROTOBUF}: {error}") from error
    if external:
        raise BackendError("Initializer tensors with external data is not allowed.")
    return drawing


def _register_arena(limit_bytes: int) -> None:
    """Create or replace the process-wide CPU arena; existing sessions keep theirs."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    config = ort.OrtArenaCfg({"max_mem": limit_bytes, "arena_extend_strategy": _SAME_AS_REQUESTED})
    ort.create_and_register_allocator(memory, config)


def _session_options(options: LoadOptions) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = options.intra_op_threads
    settings.inter_op_num_threads = options.inter_op_threads
    if options.inter_op_threads > 1:
        settings.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Redis and the front door share these cores; a pool that spins between runs would take them away.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Never accept the ORT format: `has_external_data` does not look for its external weights.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    if options.memory_limit_bytes:
        settings.add_session_config_entry("session.use_env_allocators", "1")
    return settings


def _create(blob: Blob, device: Device, options: LoadOptions) -> Any:
    providers: list[Any] = [_CPU]
    if device.kind == "GPU":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # the only way to find CUDA's own wheels in site-packages
        providers.insert(0, (_CUDA, {"device_id": str(device.index or 0)}))
    try:
        source = blob.path if isinstance(blob, ModelFile) else blob
        session = ort.InferenceSession(source, _session_options(options), providers=providers, enable_fallback=0)
    except Exception as error:
        raise onnx_error(error) from error
    session.disable_fallback()
    if device.kind == "GPU" and _CUDA not in session.get_providers():
        raise BackendError(_NO_CUDA)  # ONNX Runtime only warns when it drops a provider that cannot start
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # only needed to change providers later; it would double a model's memory
    return session
