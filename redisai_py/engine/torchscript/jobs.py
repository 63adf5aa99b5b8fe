"""The engine's records: its settings, one job, one worker process, and the pool of a device. No I/O."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from redisai_py.engine.torchscript.hosts import ScriptHost
from redisai_py.engine.torchscript.processes import Channel
from redisai_py.errors import BackendError
from redisai_py.pending import Pending
from redisai_py.tensor import Buffer, Tensor

__all__ = ["FRESH", "Job", "ScriptRun", "ScriptSettings", "Worker", "pool_of"]

_GPU = re.compile(r"GPU(?::(\d+))?\Z", re.IGNORECASE)

FRESH = object()
"""The owner of a worker that was never used."""


@dataclass(frozen=True, slots=True)
class ScriptSettings:
    """Limits of the engine.

    threads_per_queue: processes that serve one device's queue at a time.   max_processes: worker processes in all.
    queue_limit: waiting jobs in all; more are refused (`Overloaded`).
    script_execution_timeout_ms: of one run or compilation, 0 is none.
    script_memory_limit_bytes: of one worker beyond what torch itself takes, inputs included; 0 is none.
    intra_op_parallelism: torch's threads per worker, 0 leaves its default.
    """

    threads_per_queue: int = 1
    max_processes: int = 16
    queue_limit: int = 10_000
    script_execution_timeout_ms: int = 5_000
    script_memory_limit_bytes: int = 4 << 30
    intra_op_parallelism: int = 0


class ScriptRun(Pending[list[Tensor]]):
    """The outputs of one run and, once they exist, its durations.

    duration_us: in the worker, from the call to the outputs.   queued_us: from the request to the worker.
    started: a worker has, or had, it; a run that ends without that was never executed.
    """

    __slots__ = ("duration_us", "queued_us", "started")

    def __init__(self) -> None:
        super().__init__()
        self.duration_us = 0
        self.queued_us = 0
        self.started = False


@dataclass(slots=True, eq=False)
class Job:
    """A compilation or a run, from request to outcome. owner: equal for one user."""

    queue: str
    pool: str
    owner: Hashable
    header: dict[str, Any]
    parts: list[Buffer]
    source: str
    host: ScriptHost | None
    outcome: Pending[Any]
    requested: float
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process; `job` is its current job. `ready`: it has reported so.   `ended`: it gets no more jobs.

    owner: the only owner of its jobs, because its memory may hold parts of their tensors. FRESH before the first.
    """

    number: int
    pool: str
    memory_limit_bytes: int
    channel: Channel = field(init=False)
    owner: Hashable = FRESH
    job: Job | None = None
    ready: bool = False
    ended: bool = False
    timer: asyncio.TimerHandle | None = None
    answering: asyncio.Task[None] | None = None


def pool_of(device: str) -> str:
    """The kind of worker for a device string: `CPU`, or `GPU:n`.

    Raises: BackendError.   Source: AI.SCRIPTSTORE, whose grammar differs from that of models.
    """
    if device.upper().startswith("CPU"):
        return "CPU"
    match = _GPU.match(device)
    if match is None:
        raise BackendError("ERR unsupported device")
    return f"GPU:{int(match[1] or 0)}"
