"""The engine's records: its settings, one job, and one worker process. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redisai_py.engine.isolation.script_process import ScriptProcess
from redisai_py.engine.torchscript.frame_stream import FrameStream
from redisai_py.engine.torchscript.frames import encode_run
from redisai_py.engine.torchscript.hosts import ScriptHost
from redisai_py.engine.torchscript.known import Function, KnownScript
from redisai_py.engine.torchscript.lane import FREE_BYTES, Lane
from redisai_py.framing import encode_frame
from redisai_py.pending import Pending
from redisai_py.tensor import Buffer, DType, Tensor

__all__ = ["FRESH", "Compilation", "Execution", "Job", "ScriptRun", "ScriptSettings", "Worker"]

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


class Job:
    """What a worker is to do, from request to outcome.

    queue: its device's, or that of compilations.   pool: the kind of worker.   owner: whose; equal for one user.
    requested: when, by `time.perf_counter`.   source: the script's text.   host: None if nothing may be asked.
    """

    __slots__ = (
        "host",
        "message",
        "outcome",
        "owner",
        "pool",
        "queue",
        "requested",
        "size",
        "source",
        "timer",
        "tries",
    )

    def __init__(
        self, queue: str, pool: str, owner: Hashable, source: str, outcome: Pending[Any], requested: float
    ) -> None:
        self.queue = queue
        self.pool = pool
        self.owner = owner
        self.source = source
        self.outcome = outcome
        self.requested = requested
        self.host: ScriptHost | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.message: list[Buffer] | None = None
        """How it goes with others into the memory shared with a worker; None if it goes alone."""
        self.size = 0
        """Bytes of that."""
        self.tries = 0
        """How often a worker ended that had it."""

    def frame(self) -> list[Buffer]:
        """How it goes to a worker alone."""
        raise NotImplementedError


class Compilation(Job):
    """Of a source. script_id: under which the worker keeps it."""

    __slots__ = ("_entry_points", "_script_id")

    def __init__(
        self,
        queue: str,
        pool: str,
        owner: Hashable,
        source: str,
        requested: float,
        entry_points: Sequence[str],
        script_id: str | None,
    ) -> None:
        super().__init__(queue, pool, owner, source, Pending(), requested)
        self._entry_points = list(entry_points)
        self._script_id = script_id

    def frame(self) -> list[Buffer]:
        """See Job."""
        header = {"op": "compile", "id": self._script_id, "source": self.source, "entry_points": self._entry_points}
        return encode_frame(header)


class Execution(Job):
    """A run of a function. Args: see `ScriptEngine.run`."""

    __slots__ = ("_args", "_inputs", "_keys", "_name", "_outputs", "function", "known", "run")

    def __init__(
        self,
        known: KnownScript,
        name: str,
        inputs: Sequence[Tensor],
        keys: Sequence[bytes],
        args: Sequence[bytes],
        outputs: int,
        owner: Hashable,
        run: ScriptRun,
        requested: float,
    ) -> None:
        super().__init__(known.queue, known.pool, owner, known.script.source, run, requested)
        self.known = known
        self.function: Function = known.function(name)
        self.run = run
        self._name = name
        self._inputs = inputs
        self._keys = keys
        self._args = args
        self._outputs = outputs
        if self.function.short and not any([tensor.dtype is DType.STRING for tensor in inputs]):
            call = known.call(name, tuple(keys), tuple(args), outputs)
            message, self.size = call.message(inputs)
            if self.size <= FREE_BYTES:
                self.message = message

    def frame(self) -> list[Buffer]:
        """See Job."""
        script = self.known.script
        header, parts = encode_run(self._inputs, self._keys, self._args)
        header["id"], header["function"], header["outputs"] = script.identity, self._name, self._outputs
        header["entry_point"] = self._name in script.entry_points
        return encode_frame(header, parts)


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process. `started`: it has a lane and a stream.   `ready`: it has said so.   `ended`: it gets no more
    jobs.

    owner: the only owner of its jobs, because its memory may hold parts of their tensors. FRESH before the first.
    jobs: what it works on, in order: one job, or several calls that went through the lane together (`batch`).
    taken: how many of those have ended.   late: they take longer than expected.   since, seen: when the call that is
    being run was first seen to be, and its number.
    """

    number: int
    pool: str
    memory_limit_bytes: int
    process: ScriptProcess = field(init=False)
    lane: Lane = field(init=False)
    stream: FrameStream = field(init=False)
    owner: Hashable = FRESH
    jobs: list[Job] = field(default_factory=list)
    batch: bool = False
    taken: int = 0
    late: bool = False
    since: float = 0.0
    seen: int = 0
    started: bool = False
    ready: bool = False
    ended: bool = False
    timer: asyncio.TimerHandle | None = None
    answering: asyncio.Task[None] | None = None
