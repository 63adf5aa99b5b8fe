"""Loader threads: importing frameworks and building sessions takes seconds, so these have their own threads."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from redisai_py.backend import Array, Backend, InputSpec, LoadOptions, ModelFile, ReadsFiles, Session, framework_error
from redisai_py.engine.formats import advice
from redisai_py.errors import BackendError, BackendNotInstalled, RedisAIError
from redisai_py.machine import lower_priority
from redisai_py.model import Model

__all__ = ["Loader", "has_dynamic_rows", "load_session", "zeros"]

_MAX_WARM_UP_BYTES = 64 * 1024 * 1024


class Loader:
    """Threads, started on first use, that call the given functions in turn.

    Args: threads: maximum number.   stopped: called by each thread as its last act.   nice: see `lower_priority`.
    """

    def __init__(self, threads: int, stopped: Callable[[], object], nice: int = 0) -> None:
        self._limit = threads
        self._stopped = stopped
        self._nice = nice
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._started = 0
        self._retired: set[threading.Thread] = set()
        self.threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], object]) -> None:
        """Call `work`, which must not raise, on a loader thread. Thread: the event loop's.

        Raises: RuntimeError: there is no thread, and none can be started.
        """
        if len(self.threads) < self._limit:
            try:
                self._start()
            except RuntimeError:
                if not self.threads:
                    raise
        self._work.put(work)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"redisai loader {self._started + 1}", daemon=True)
        thread.start()
        self._started += 1
        self.threads.append(thread)

    def replace(self, thread: threading.Thread) -> None:
        """Replace a thread whose work does not end; the old one ends with its work.

        Raises: RuntimeError: the system gives no more threads.
        """
        self._start()
        self._retired.add(thread)
        self.threads.remove(thread)

    def stop(self) -> None:
        """Let the threads end once they have done the waiting work."""
        for _ in self.threads:
            self._work.put(None)

    def _run(self) -> None:
        lower_priority(self._nice)
        while (work := self._work.get()) is not None:
            work()
            del work  # it holds a model's bytes
            if threading.current_thread() in self._retired:
                self._retired.discard(threading.current_thread())
                return
        self._stopped()


def load_session(model: Model, options: LoadOptions, find_backend: Callable[[str], Backend]) -> Session:
    """A session of the model's bytes; refuses an unusable device.

    Raises: BackendNotInstalled; BackendError with the framework's text.
    """
    try:
        backend = find_backend(model.backend)
        backend.check_device(model.device)
        if model.signature:
            options = replace(options, extra={**options.extra, "signature": model.signature})
        if isinstance(model.blob, ModelFile) and isinstance(backend, ReadsFiles):
            return backend.load_file(model.blob, model.device, model.inputs, model.outputs, options)
        return backend.load_model(bytes(model.blob), model.device, model.inputs, model.outputs, options)
    except BackendError as error:
        hint = "" if isinstance(error, BackendNotInstalled) else advice(bytes(model.blob), model.backend)
        if not hint:
            raise
        raise BackendError(f"{error}; {hint}") from error
    except RedisAIError:
        raise
    except BaseException as error:  # a plugin's own failure: the client gets an error, with the traceback as its cause
        raise framework_error(error, "ERR ") from error


def zeros(inputs: Sequence[InputSpec]) -> list[Array] | None:
    """Warm-up inputs, with 1 for dynamic dimensions; None if a shape or dtype is unknown, or an input is very large."""
    arrays: list[Array] = []
    for spec in inputs:
        if spec.shape is None or spec.dtype is None:
            return None
        shape = tuple(1 if dim is None else dim for dim in spec.shape)
        if math.prod(shape) * spec.dtype.itemsize > _MAX_WARM_UP_BYTES:
            return None
        arrays.append(np.full(shape, b"" if spec.dtype.hasobject else 0, spec.dtype))
    return arrays


def has_dynamic_rows(session: Session) -> bool:
    """Whether every input has a dynamic first dimension."""
    return bool(session.inputs) and all(spec.shape and spec.shape[0] is None for spec in session.inputs)
