"""When a model may run in the server itself (`--isolation auto`), and what it may take there. docs/adr/0049.

A short run costs less in the server than the hop to a process. So a model whose runs are short is loaded here too, once
it has shown it often enough. What could still do harm here stays out: models whose control flow depends on values, for
no number of runs shows the branch that comes next; and memory: a run that needs more than `HERE_BYTES` is executed in a
process, where it cannot take the server with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from redisai_py.backend import LoadOptions, Session, load_backend
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.loader import load_session
from redisai_py.model import Model
from redisai_py.tensor import Device

__all__ = ["Proof", "load_here", "terminate"]

HERE_BYTES = 256 * 1024 * 1024
"""For the weights of all models that run in the server, and for what their runs compute with; in all front doors."""
_MODEL_BYTES = 64 * 1024 * 1024
"""A larger model has no short runs, or is not worth a second load. This, too, for the copies of all front doors."""
_BACKENDS = ("ONNX",)
"""Those that keep to a memory limit, stop between two operators, and have no operators that a model brings along."""


class _Described(Protocol):
    """A loaded model."""

    device: Device
    nbytes: int
    stateful: bool
    loops: bool
    branches: str


class Proof:
    """The good runs of one model. Thread: any; a run that is not counted does no harm."""

    __slots__ = ("_good_runs", "_settings", "wanted")

    def __init__(self, settings: IsolationSettings, backend: str) -> None:
        self._settings = settings
        self._good_runs = 0
        self.wanted = settings.isolation == "auto" and backend in _BACKENDS
        """Whether runs count."""

    def ran(self, run_ns: int, model: _Described) -> bool:
        """A run took so long in the framework. Returns: whether the model may run in the server; True only once."""
        if run_ns > self._settings.short_us * 1000:
            self._good_runs = max(0, self._good_runs - 1)
            return False
        self._good_runs += 1
        if self._good_runs < self._settings.proof_runs:
            return False
        self.wanted = False
        decides = model.stateful or model.loops or bool(model.branches)
        return not decides and model.device.kind == "CPU" and model.nbytes <= _MODEL_BYTES // self._settings.front_doors


def load_here(model: Model, options: LoadOptions, front_doors: int) -> Session:
    """Load a model in this process. Raises: RedisAIError: there is no room for it, or the framework's error."""
    limit = min(options.memory_limit_bytes or HERE_BYTES, HERE_BYTES // front_doors)
    return load_session(model, replace(options, memory_limit_bytes=limit), load_backend)


def terminate(session: Session, concurrent: bool, thread_id: int | None) -> bool:
    """Stop the run of a model in this process on that thread; False if there is none, or it does not stop."""
    return session.terminate(thread_id) if concurrent else session.terminate()  # type: ignore[call-arg]
