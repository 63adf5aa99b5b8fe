"""The interface between the server and the frameworks: what a backend plugin provides, and how it is found.

A plugin is any distribution with an entry point in the group `redisai_py.backends`; the entry point's name is the
backend's name in lower case and its object a class (or factory) without arguments that gives a `Backend`. The built-in
plugins (`backends/` in the source tree) are found in exactly this way. A plugin imports its framework at the top of its
module and is itself imported only when first needed, so the server starts without any framework.

A plugin may import `redisai_py.backend`, `redisai_py.tensor` and `redisai_py.errors`, nothing else of this package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from redisai_py.blobs import Blob, ModelFile, opened
from redisai_py.errors import BackendError, BackendNotInstalled
from redisai_py.plugins import ENTRY_POINT_GROUP, backend_names
from redisai_py.tensor import Device

__all__ = [
    "ENTRY_POINT_GROUP",
    "Array",
    "Backend",
    "Blob",
    "ConcurrentSession",
    "DeviceArray",
    "InputSpec",
    "LoadOptions",
    "ModelFile",
    "ReadsFiles",
    "Session",
    "TensorSpec",
    "WarmsUp",
    "backend_names",
    "framework_error",
    "install_hint",
    "load_backend",
    "loaded_backends",
    "may_keep_state",
    "may_loop",
    "opened",
    "output_specs",
    "runs_concurrently",
    "what_branches",
    "what_draws",
]

_EXTRAS = {"ONNX": "onnx", "TF": "tensorflow", "TFLITE": "tflite", "TORCH": "torch"}


@runtime_checkable
class DeviceArray(Protocol):
    """A value that stays on an accelerator between two operations of one DAG."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""

    @property
    def nbytes(self) -> int:
        """Size in bytes on the device."""

    def numpy(self) -> NDArray[Any]:
        """A C-contiguous copy in host memory."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Exchange with another framework without a copy."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (device type, device id)."""


Array = NDArray[Any] | DeviceArray
"""An input or output of a run. STRING tensors are object arrays whose elements are `bytes`."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model declares about one input or output; `None` if unknown.

    shape: None for a dynamic dimension.   says: the model's own type name of something that is not a tensor:
    `seq(...)`.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None
    says: str = ""


InputSpec = TensorSpec
"""The name of earlier versions."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Settings that a plugin applies if its framework can.

    intra_op_threads, inter_op_threads: within and between operations; 0 leaves the choice to the plugin.
    memory_limit_bytes: limit of the framework's own CPU allocator, 0 is none.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    memory_limit_bytes: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """One loaded model. The engine calls it on one thread at a time, unless it is a `ConcurrentSession`. `terminate`
    may be called at any time.
    """

    inputs: Sequence[TensorSpec]
    """One per input, in the order of `run`'s arguments."""
    outputs: Sequence[str]
    """One name per output; TORCH has empty strings."""
    nbytes: int
    """Estimate of the memory of the loaded model in bytes (weights; at least the blob's size)."""
    stateful: bool
    """Whether a run may affect later runs. Such a model is neither warmed up nor merged. A session without this
    attribute keeps no state.
    """
    loops: bool
    """Whether the duration of a run depends on values, because of a loop. Such a model is not warmed up, because it may
    never end for zeros, and does not run on the event loop. A session without this attribute has no such loop.
    """
    draws: str
    """Why equal inputs may give different outputs although nothing is kept: operations that draw random numbers or are
    in training mode. Empty if there are none, which is also the default. Such a model has no prediction cache.
    """
    branches: str
    """What lets values of the inputs decide which operations a run executes, or with which numbers: the operators
    of a branch on `x.sum() > 0`, say. Sizes of the inputs do not count. Empty if there is none, which is also the
    default. Such a model is not merged, because the values of one request could decide for another.
    """
    output_specs: Sequence[TensorSpec]
    """One per output, as far as the model declares them; a session without this attribute declares none."""

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Run the model once.

        Args:    inputs: one array per input, C-contiguous, read-only, not to be kept after the call. Device arrays, of
                 any backend, are passed only to a session on a GPU; for one on the CPU the caller uses
                 `DeviceArray.numpy()`.
                 keep_on_device: outputs may stay on the accelerator.
        Returns: one C-contiguous array per output, in order, in its own memory; None for an output that is not a
                 tensor.
        Raises:  BackendError with the framework's text (RedisAI's text where the spec fixes one).
        Thread:  a worker thread; releases the GIL while the framework computes.
        """

    def terminate(self) -> bool:
        """Ask a running `run` to stop early; False if the framework cannot. `run` then raises BackendError."""

    def close(self) -> None:
        """Release the memory; `run` is not called again."""


class Backend(Protocol):
    """One framework."""

    name: str
    """The backend's wire name, upper case: `ONNX`."""
    version: str
    """The framework's version, as INFO shows it."""

    def check_device(self, device: Device) -> None:
        """Raise BackendError with RedisAI's text if this build or machine cannot use `device`. Never falls back."""

    def load_model(
        self, blob: bytes, device: Device, inputs: Sequence[str], outputs: Sequence[str], options: LoadOptions
    ) -> Session:
        """Build a session from a model's bytes.

        Args:    inputs, outputs: node names, for backends whose models do not contain them (TF); else empty.
        Raises:  BackendError with the framework's text on one line.
        Thread:  any but the event loop's.
        """


class ConcurrentSession(Session, Protocol):
    """A session that several threads may enter at once. The engine then runs several of its batches side by side.

    A stateful session is entered by one thread at a time whatever `concurrent` says.
    """

    concurrent: bool
    """Whether several threads may call `run` at once. A session without this attribute: no."""

    def terminate(self, thread_id: int | None = None) -> bool:
        """Ask one run to stop early; False if the framework cannot, or there is no such run.

        Args: thread_id: `threading.get_ident()` of the thread in `run`; None stops every run.
        """


@runtime_checkable
class ReadsFiles(Protocol):
    """A backend that loads large models from a file, so that their bytes need not be in memory meanwhile."""

    def load_file(
        self, blob: ModelFile, device: Device, inputs: Sequence[str], outputs: Sequence[str], options: LoadOptions
    ) -> Session:
        """Like `load_model`, reading from `blob.path`, which exists as long as `blob`."""


@runtime_checkable
class WarmsUp(Protocol):
    """A backend that can do ahead what the first load in a process does once."""

    def warm_up(self) -> None:
        """Called in the process from which engine processes are forked; may leave no thread behind."""


def may_keep_state(session: Session) -> bool:
    """The session's `stateful`; False by default."""
    return bool(getattr(session, "stateful", False))


def may_loop(session: Session) -> bool:
    """The session's `loops`; False by default."""
    return bool(getattr(session, "loops", False))


def runs_concurrently(session: Session) -> TypeGuard[ConcurrentSession]:
    """Whether several threads may use the session at once: it declares so, and keeps no state."""
    return bool(getattr(session, "concurrent", False)) and not may_keep_state(session)


def what_draws(session: Session) -> str:
    """The session's `draws`; empty by default."""
    return str(getattr(session, "draws", ""))


def what_branches(session: Session) -> str:
    """The session's `branches`; empty by default."""
    return str(getattr(session, "branches", ""))


def output_specs(session: Session) -> Sequence[TensorSpec]:
    """The session's `output_specs`; by default only the names."""
    specs: Sequence[TensorSpec] | None = getattr(session, "output_specs", None)
    return [TensorSpec(name) for name in session.outputs] if specs is None else specs


def framework_error(error: BaseException, prefix: str = "") -> BackendError:
    """A framework's exception as a BackendError: its text on one line, after `prefix`.

    Each newline becomes a space; nothing else changes. An exception without text shows its type's name.
    """
    text = str(error).replace("\n", " ").replace("\r", " ")
    return BackendError(prefix + (text if text.strip() else type(error).__name__))


@dataclass(slots=True)
class _Registry:
    """Backends by wire name; one lock per name, so that one slow import does not block the others."""

    locks: dict[str, threading.Lock] = field(default_factory=dict)
    loaded: dict[str, Backend] = field(default_factory=dict)


_registry = _Registry()


def loaded_backends() -> dict[str, Backend]:
    """The plugins imported so far, by wire name."""
    return dict(_registry.loaded)


def load_backend(name: str) -> Backend:
    """The backend of that name, imported on first use; single-flight across threads.

    Args:    name: wire name in any case.
    Raises:  BackendNotInstalled: no such entry point, or its import failed (the text says what to install).
    Thread:  any but the event loop's: the import of a framework takes seconds.
    """
    wire_name = name.upper()
    backend = _registry.loaded.get(wire_name)
    if backend is not None:
        return backend
    with _registry.locks.setdefault(wire_name, threading.Lock()):
        backend = _registry.loaded.get(wire_name)
        if backend is None:
            backend = _registry.loaded[wire_name] = _import(wire_name)
        return backend


def install_hint(extra: str) -> str:
    """How to install an extra of this package while it is on no package index."""
    return f"pip install '.[{extra}]' in the directory of redisai_py's source, into the server's environment"


def _import(wire_name: str) -> Backend:
    points = [p for p in metadata.entry_points(group=ENTRY_POINT_GROUP) if p.name.upper() == wire_name]
    if not points:
        raise BackendNotInstalled(f"ERR Could not load backend: no plugin for {wire_name} is installed")
    try:
        factory: Callable[[], Backend] = points[0].load()
        backend = factory()
        if not isinstance(backend.version, str):  # INFO and the metrics use it, and must not fail
            raise TypeError(f"its version is {backend.version!r} instead of a string")
        return backend
    except BaseException as error:  # usually the framework is missing, but an installed one may be broken in any way
        extra = _EXTRAS.get(wire_name) if isinstance(error, ImportError) else None
        hint = f"; try: {install_hint(extra)}" if extra else ""
        raise BackendNotInstalled(f"ERR Could not load backend: {framework_error(error)}{hint}") from error
