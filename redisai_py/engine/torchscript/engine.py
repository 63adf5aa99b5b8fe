"""Runs TorchScript in engine processes, the workers: one FIFO queue per device, a limited number of processes, a time
limit per run.

A job (a compilation or a run) waits in its device's queue, goes to an idle worker, and ends when the worker reports its
end, when its time limit passes (the worker is killed), or when the worker dies. While a script runs, its worker may ask
for its source, a Redis command or a model's run; the caller's `ScriptHost` answers the latter two. Short runs that ask
for nothing go to a worker together. docs/adr/0009 and 0045.

Rules: everything here runs on the event loop's thread. Only `Pending` objects are awaited, so that the server's own
eager tasks can await it as well as an asyncio Task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence

from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.script_process import ScriptProcess
from redisai_py.engine.torchscript.fleet import Fleet
from redisai_py.engine.torchscript.hosts import ScriptHost
from redisai_py.engine.torchscript.jobs import Compilation, Execution, Job, ScriptRun, ScriptSettings, Worker
from redisai_py.engine.torchscript.known import KnownScripts, pool_of
from redisai_py.engine.torchscript.queues import JobQueues
from redisai_py.engine.torchscript.work import Work
from redisai_py.errors import BackendError, BackendNotInstalled, Overloaded, QueueTimeout, RedisAIError
from redisai_py.model import Script
from redisai_py.tensor import Device, Tensor

__all__ = ["ScriptEngine"]

_PATIENCE_MS = 1
"""How long the event loop sleeps for a worker's answer."""
_COMPANY = 32
"""So many runs after one that was not alone none is waited for."""


class ScriptEngine:
    """Compiles and runs scripts; starts nothing before the first of them."""

    def __init__(self, settings: ScriptSettings, loop: asyncio.AbstractEventLoop, processes: Isolation) -> None:
        """`settings` may be replaced; time limits apply from the next run on, the others from the next process on.

        Args: processes: where scripts run; `Engine.close` closes them; close this before.
        """
        self.settings = settings
        self.known = KnownScripts()
        self._loop = loop
        self._processes = processes
        self._fleet = Fleet(loop, self, lambda ended: ScriptProcess(processes, ended))
        self._queues = JobQueues()
        self._work = Work(loop, self._queues, self._fleet, lambda: self.settings)
        self.worker_sent = self._work.worker_sent
        self.worker_broke_protocol = self._work.worker_broke_protocol
        self._scheduled = False
        self._company = 0
        self._closed = False

    # --- what callers use -------------------------------------------------------------------------------------------

    async def compile(
        self,
        source: str,
        device: Device | str,
        entry_points: Sequence[str],
        script_id: str | None = None,
        owner: Hashable = None,
    ) -> None:
        """Compile a source and check its entry points, as AI.SCRIPTSTORE and AI.SCRIPTSET do before they store it.

        Args:    device: as typed.   entry_points: function names; each must be (List[Tensor], List[str], List[str]).
                 script_id: if given, the worker keeps the compiled source for runs of that script's identity.
                 owner: whose it is; no process serves two.
        Raises:  BackendNotInstalled (no torch), BackendError with RedisAI's or the compiler's text, RunTimeout.
        """
        text = device.text if isinstance(device, Device) else device
        await self._load()
        pool = pool_of(text)
        # In a queue of its own: a store neither waits for runs nor delays them.
        queue = f"{text.upper()} compile"
        job = Compilation(queue, pool, owner, source, time.perf_counter(), entry_points, script_id)
        self._submit(job, None)
        self._work.schedule()
        await job.outcome

    def run(
        self,
        script: Script,
        function: str,
        tensors: Sequence[Tensor],
        keys: Sequence[bytes],
        args: Sequence[bytes],
        outputs: int,
        host: ScriptHost | None,
        timeout_ms: int | None = None,
        owner: Hashable = None,
        into: ScriptRun | None = None,
        alone: bool = False,
    ) -> ScriptRun:
        """Run one function of a script.

        Args:    outputs: number of tensors expected, 0 discards the result.
                 host: None for a function that is known to ask for nothing.
                 timeout_ms: limit on the wait in the queue, None is none.
                 owner: whose run it is; no process serves two.
                 into: what to give the outcome to, a new run without.
                 alone: the caller has nothing else to do: the event loop may sleep until a short run has ended.
        Returns: awaitable of `outputs` tensors on the CPU.
        Raises:  (when awaited) QueueTimeout; RunTimeout: its text names SCRIPT_EXECUTION_TIMEOUT;
                 BackendError: the interpreter's message, RedisAI's text, a crash, SCRIPT_MEMORY_LIMIT;
                 BackendNotInstalled: no torch;   Overloaded: too many jobs wait.
        Source:  AI.SCRIPTEXECUTE, AI.SCRIPTRUN.
        """
        run = ScriptRun() if into is None else into
        try:
            known = self.known.of(script)
            now = time.perf_counter()
            job = Execution(known, function, tensors, keys, args, outputs, owner, run, now)
            job.host = host
            was_idle = self._work.idle and not self._queues.waiting
            self._submit(job, timeout_ms)
        except RedisAIError as error:
            run.fail(error)
            return run
        if job.message is None:
            self._work.schedule()
        elif not self._is_alone(was_idle and alone):
            self._schedule_soon()
        else:
            self._work.schedule()
            self._wait_for(job)
        return run

    def cancel_queued(self, run: ScriptRun) -> bool:
        """Remove a run from its queue, since nobody wants the result; False if it has started or ended.

        The run then ends with asyncio's CancelledError. A run that has started continues.
        """
        job = self._queues.waits(run)
        if job is None:
            return self._work.not_begun(run) and run.cancel()
        self._queues.remove(job)
        if job.timer is not None:
            job.timer.cancel()
        return run.cancel()

    def queue_depths(self) -> dict[str, int]:
        """Number of waiting jobs, by device queue (`CPU`, and `CPU compile` for stores)."""
        return {name: len(queue) for name, queue in self._queues.by_name.items()}

    @property
    def framework_version(self) -> str | None:
        """torch's version, once a script or a model has needed it."""
        return self._processes.versions.get("TORCH")

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return self._fleet.pids()

    def close(self) -> None:
        """Fail waiting and running jobs, and kill all workers."""
        self._closed = True
        error = BackendError("ERR script engine is closed")
        for worker in list(self._fleet.workers.values()):
            if worker.answering is not None:
                worker.answering.cancel()
            self._work.discard(worker, error)
        self._fail_queued(error, None)

    # --- queues -----------------------------------------------------------------------------------------------------

    def _submit(self, job: Job, timeout_ms: int | None) -> None:
        if self._closed:
            raise BackendError("ERR script engine is closed")
        if self._queues.waiting >= self.settings.queue_limit:
            raise Overloaded(f"ERR the run queue of scripts is full: {self._queues.waiting} runs are waiting")
        if timeout_ms is not None:
            job.timer = self._loop.call_later(timeout_ms / 1000, self._expire, job)
        self._queues.add(job)

    def _expire(self, job: Job) -> None:
        if self._queues.remove(job) or self._work.not_begun(job.outcome):
            job.outcome.fail(QueueTimeout())

    def _is_alone(self, alone: bool) -> bool:
        """Whether nobody else runs scripts, now and lately: several runs are better sent together than waited for."""
        if not alone:
            self._company = _COMPANY
        elif self._company:
            self._company -= 1
        else:
            return True
        return False

    def _schedule_soon(self) -> None:
        """Send the short runs of this iteration of the loop together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._schedule)

    def _schedule(self) -> None:
        self._scheduled = False
        self._work.schedule()

    def _wait_for(self, job: Job) -> None:
        """Sleep until a run has ended, but not for long."""
        worker = self._work.worker_of(job.outcome)
        while worker is not None and not (job.outcome.done or worker.ended) and worker.stream.wait(_PATIENCE_MS):
            pass

    def _fail_queued(self, error: RedisAIError, pool: str | None) -> None:
        """Fail the waiting jobs of a pool, or all."""
        for job in self._queues.take_all(pool):
            if job.timer is not None:
                job.timer.cancel()
            job.outcome.fail(error)

    # --- processes --------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Return when the framework is imported: a missing one is said before anything else is.

        Raises: BackendNotInstalled, BackendError.
        """
        if self.framework_version is None:
            await self._loop.run_in_executor(None, self._processes.import_backend, "TORCH")

    def worker_not_started(self, worker: Worker, error: RedisAIError) -> None:
        """See FleetEvents."""
        if self._fleet.workers.pop(worker.number, None) is not None:
            self._fail_queued(error, None if isinstance(error, BackendNotInstalled) else worker.pool)
            self._work.schedule()  # there is room for a worker of another kind

    def worker_exited(self, worker: Worker, status: int | None) -> None:
        """See FleetEvents."""
        if worker.number not in self._fleet.workers:
            return  # we discarded it
        error = self._work.ended(worker, status)
        if not worker.ready and status is not None:
            self._fail_queued(error, worker.pool)  # the next worker would end in the same way
        self._work.schedule()
