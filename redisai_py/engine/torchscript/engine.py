"""Runs TorchScript in worker processes: one FIFO queue per device, a limited number of processes, a time limit per run.

A job (a compilation or a run) waits in its device's queue, goes to an idle worker, and ends when the worker reports its
end, when its time limit passes (the worker is killed), or when the worker dies. While a script runs, its worker may ask
for its source, a Redis command or a model's run; the caller's `ScriptHost` answers the latter two. docs/adr/0009.

Rules: everything here runs on the event loop's thread. Only `Pending` objects are awaited, so that the server's own
driver can await it as well as an asyncio Task.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from redisai_py.backend import install_hint
from redisai_py.engine.torchscript.fleet import Fleet, death, memory_text
from redisai_py.engine.torchscript.frames import Frame, decode_tensors, encode_frame, encode_run
from redisai_py.engine.torchscript.hosts import Question, ScriptHost, parse_question
from redisai_py.engine.torchscript.jobs import Job, ScriptRun, ScriptSettings, Worker, pool_of
from redisai_py.errors import (
    BackendError,
    BackendNotInstalled,
    Overloaded,
    ProtocolError,
    QueueTimeout,
    RedisAIError,
    RunTimeout,
)
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.tensor import Device, Tensor

__all__ = ["ScriptEngine"]


class ScriptEngine:
    """Compiles and runs scripts; starts nothing before the first of them."""

    def __init__(self, settings: ScriptSettings, loop: asyncio.AbstractEventLoop) -> None:
        """`settings` may be replaced; time limits apply from the next run on, the others from the next process on."""
        self.settings = settings
        self._loop = loop
        self._fleet = Fleet(loop, self)
        self._version: str | None = None
        self._loading: list[Pending[None]] = []
        self._queues: dict[str, deque[Job]] = {}
        self._running: dict[str, int] = {}
        self._queued = 0
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
        header = {"op": "compile", "id": script_id, "source": source, "entry_points": list(entry_points)}
        # In a queue of its own: a store neither waits for runs nor delays them.
        queue = f"{text.upper()} compile"
        await self._submit(Job(queue, pool, owner, header, [], source, None, Pending(), time.perf_counter()), None)

    def run(
        self,
        script: Script,
        function: str,
        tensors: Sequence[Tensor],
        keys: Sequence[bytes],
        args: Sequence[bytes],
        outputs: int,
        host: ScriptHost,
        timeout_ms: int | None = None,
        owner: Hashable = None,
    ) -> ScriptRun:
        """Run one function of a script.

        Args:    outputs: number of tensors expected, 0 discards the result.
                 timeout_ms: limit on the wait in the queue, None is none.
                 owner: whose run it is; no process serves two.
        Returns: awaitable of `outputs` tensors on the CPU.
        Raises:  (when awaited) QueueTimeout; RunTimeout: its text names SCRIPT_EXECUTION_TIMEOUT;
                 BackendError: the interpreter's message, RedisAI's text, a crash, SCRIPT_MEMORY_LIMIT;
                 BackendNotInstalled: no torch;   Overloaded: too many jobs wait.
        Source:  AI.SCRIPTEXECUTE, AI.SCRIPTRUN.
        """
        run = ScriptRun()
        header, parts = encode_run(tensors, keys, args)
        header["id"], header["function"], header["outputs"] = script.identity, function, outputs
        header["entry_point"] = function in script.entry_points
        text = script.device.text
        try:
            job = Job(text.upper(), pool_of(text), owner, header, parts, script.source, host, run, time.perf_counter())
            self._submit(job, timeout_ms)
        except RedisAIError as error:
            run.fail(error)
        return run

    def cancel_queued(self, run: ScriptRun) -> bool:
        """Remove a run from its queue, since nobody wants the result; False if it has started or ended.

        The run then ends with asyncio's CancelledError. A run that has started continues.
        """
        waiting = (job for queue in self._queues.values() for job in queue if job.outcome is run)
        job = next(waiting, None)
        if job is None:
            return False
        self._remove(job)
        if job.timer is not None:
            job.timer.cancel()
        return run.cancel()

    def queue_depths(self) -> dict[str, int]:
        """Number of waiting jobs, by device queue (`CPU`, and `CPU compile` for stores)."""
        return {name: len(queue) for name, queue in self._queues.items() if queue}

    @property
    def framework_version(self) -> str | None:
        """torch's version, once a script has needed it."""
        return self._version

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return self._fleet.pids()

    async def close(self) -> None:
        """Fail waiting and running jobs, and end all processes; returns when none is left."""
        self._closed = True
        error = BackendError("ERR script engine is closed")
        for worker in list(self._fleet.workers.values()):
            if worker.answering is not None:
                worker.answering.cancel()
            self._discard(worker, error)
        self._fail_queued(error, None)
        self._fail_loading(error)
        await self._fleet.close()

    # --- queues -----------------------------------------------------------------------------------------------------

    def _submit(self, job: Job, timeout_ms: int | None) -> Pending[Any]:
        if self._closed:
            raise BackendError("ERR script engine is closed")
        if self._queued >= self.settings.queue_limit:
            raise Overloaded(f"ERR the run queue of scripts is full: {self._queued} runs are waiting")
        if timeout_ms is not None:
            job.timer = self._loop.call_later(timeout_ms / 1000, self._expire, job)
        self._queues.setdefault(job.queue, deque()).append(job)
        self._queued += 1
        self._fleet.start()
        self._schedule()
        return job.outcome

    def _expire(self, job: Job) -> None:
        self._remove(job)
        job.outcome.fail(QueueTimeout())

    def _remove(self, job: Job) -> None:
        queue = self._queues[job.queue]
        queue.remove(job)
        if not queue:
            del self._queues[job.queue]
        self._queued -= 1

    def _schedule(self) -> None:
        """Give waiting jobs to idle workers, and fork workers for jobs that could run but find none."""
        if self._version is None or not self._queued:
            return
        wanted: dict[str, int] = {}
        for name in list(self._queues):
            queue = self._queues[name]
            while queue and self._running.get(name, 0) < self.settings.threads_per_queue:
                worker = self._fleet.take_idle(queue[0].pool, queue[0].owner)
                if worker is None:
                    free = self.settings.threads_per_queue - self._running.get(name, 0)
                    wanted[queue[0].pool] = wanted.get(queue[0].pool, 0) + min(len(queue), free)
                    break
                if self._begin(worker, queue[0]):
                    self._queued -= 1
                    queue.popleft()
            if not queue:
                del self._queues[name]
        for pool, count in wanted.items():
            self._fleet.fork(pool, count, self.settings)

    def _begin(self, worker: Worker, job: Job) -> bool:
        """Send a job to an idle worker; False if the worker has just ended, and the job goes to another."""
        if job.outcome.done:  # its client has left
            self._fleet.rest(worker)
        elif not worker.channel.send(encode_frame(job.header, job.parts)):
            worker.ended = True
            return False
        else:
            self._count_in(worker, job)
        if job.timer is not None:
            job.timer.cancel()
        return True

    def _count_in(self, worker: Worker, job: Job) -> None:
        if isinstance(job.outcome, ScriptRun):
            job.outcome.started = True
            job.outcome.queued_us = int((time.perf_counter() - job.requested) * 1e6)
        self._running[job.queue] = self._running.get(job.queue, 0) + 1
        worker.job = job
        worker.owner = job.owner
        if self.settings.script_execution_timeout_ms:
            limit_ms = self.settings.script_execution_timeout_ms
            worker.timer = self._loop.call_later(limit_ms / 1000, self._stop, worker, limit_ms)

    def _stop(self, worker: Worker, limit_ms: int) -> None:
        text = f"ERR script ran longer than SCRIPT_EXECUTION_TIMEOUT ({limit_ms} ms) and was stopped"
        self._discard(worker, RunTimeout(text))
        self._schedule()

    def _end(self, worker: Worker) -> Job | None:
        """Take the worker's job from it."""
        job, worker.job = worker.job, None
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        if job is not None:
            left = self._running[job.queue] - 1
            if left:
                self._running[job.queue] = left
            else:
                del self._running[job.queue]
        return job

    def _fail_queued(self, error: RedisAIError, pool: str | None) -> None:
        """Fail the waiting jobs of a pool, or all."""
        for name in list(self._queues):
            queue = self._queues[name]
            if pool is None or queue[0].pool == pool:
                del self._queues[name]
                self._queued -= len(queue)
                for job in queue:
                    if job.timer is not None:
                        job.timer.cancel()
                    job.outcome.fail(error)

    # --- processes --------------------------------------------------------------------------------------------------

    def _load(self) -> Pending[None]:
        """Done when the framework is imported."""
        loaded: Pending[None] = Pending()
        if self._closed:
            loaded.fail(BackendError("ERR script engine is closed"))
        elif self._version is not None:
            loaded.resolve(None)
        else:
            self._loading.append(loaded)
            self._fleet.start()
        return loaded

    def _fail_loading(self, error: RedisAIError) -> None:
        loading, self._loading = self._loading, []
        for loaded in loading:
            loaded.fail(error)

    def zygote_ready(self, version: str) -> None:
        """The framework was imported (called by `Zygote`)."""
        self._version = version
        loading, self._loading = self._loading, []
        for loaded in loading:
            loaded.resolve(None)
        self._schedule()

    def zygote_lost(self, text: str) -> None:
        """The zygote ended, and all workers with it (called by `Zygote`)."""
        was_ready = self._version is not None
        self._fleet.zygote_ended()
        self._version = None
        for worker in list(self._fleet.workers.values()):
            self._discard(worker, BackendError("ERR script worker process ended with the process it was forked from"))
        if was_ready:
            if self._queued:
                self._fleet.start()
            return
        why = f"{text}; try: {install_hint('torch')}" if text else "the process that imports torch ended"
        error = BackendNotInstalled(f"ERR Could not load backend: {why}")
        self._fail_loading(error)
        self._fail_queued(error, None)

    def worker_exited(self, number: int, status: int) -> None:
        """A worker ended by itself or by a signal (called by `Zygote`)."""
        worker = self._fleet.workers.get(number)
        if worker is None:
            return  # we discarded it
        worker.ended = True
        worker.channel.read()  # its last messages may arrive later than the news of its end
        error = death(worker, status)
        if number in self._fleet.workers:
            self._discard(worker, error)
        if not worker.ready:
            self._fail_queued(error, worker.pool)  # the next worker would end in the same way
        self._schedule()

    def _discard(self, worker: Worker, error: BaseException | None) -> None:
        """Kill a worker and forget it; its job fails with `error`.

        A running call of the host is allowed to finish first: the client's next command must not overtake the script's
        requests to Redis.
        """
        self._fleet.remove(worker)
        job = self._end(worker)
        if job is None or error is None:
            return
        if worker.answering is None:
            job.outcome.fail(error)
        else:
            outcome = job.outcome
            worker.answering.add_done_callback(lambda _: outcome.fail(error))

    def worker_broke_protocol(self, worker: Worker, error: ProtocolError) -> None:
        """A worker that violates the protocol is no longer under our control (called by `Fleet`)."""
        self._discard(worker, BackendError(str(error)))
        self._schedule()

    # --- messages from a worker -------------------------------------------------------------------------------------

    def worker_sent(self, worker: Worker, frame: Frame) -> None:
        """Handle a worker's message (called by `Fleet`)."""
        try:
            self._handle(worker, *frame)
        except Exception as error:  # a worker that a script has taken over may send anything
            self.worker_broke_protocol(worker, ProtocolError(f"ERR script worker sent a malformed frame: {error!r}"))

    def _handle(self, worker: Worker, header: dict[str, Any], payload: memoryview) -> None:
        op, job = header["op"], worker.job
        if op == "ready" and not worker.ready:
            worker.ready = True
            self._fleet.rest(worker)
            self._schedule()
        elif job is None or worker.answering is not None:
            raise ProtocolError(f"unexpected {op}")
        elif op == "result":
            outputs = decode_tensors(header["tensors"], payload)
            if isinstance(job.outcome, ScriptRun):
                job.outcome.duration_us = int(header["duration_us"])
            self._finish(worker, outputs, None)
        elif op == "compiled":
            self._finish(worker, None, None)
        elif op == "error":
            self._fail(worker, header)
        elif op == "source":
            worker.channel.send(encode_frame({"op": "source", "source": job.source}))
        else:
            assert job.host is not None
            question = parse_question(op, header, payload, job.host)
            worker.answering = self._loop.create_task(self._answer(worker, job, question))

    def _finish(self, worker: Worker, value: Any, error: RedisAIError | None) -> None:
        job = self._end(worker)
        assert job is not None
        if not worker.ended:
            self._fleet.rest(worker)
        self._schedule()  # before the outcome is delivered, so that the worker need not wait for its consequences
        if error is None:
            job.outcome.resolve(value)
        else:
            job.outcome.fail(error)

    def _fail(self, worker: Worker, header: dict[str, Any]) -> None:
        text = str(header["text"])
        if not header.get("memory"):
            self._finish(worker, None, BackendError(text))
            return
        self._discard(worker, BackendError(memory_text(worker, text)))  # it also ends itself
        self._schedule()

    async def _answer(self, worker: Worker, job: Job, question: Question) -> None:
        try:
            buffers = await question()
        except RedisAIError as error:
            buffers = encode_frame({"op": "failure", "text": error.wire()})
        except Exception as error:  # a bug of the host: the run ends with it, and whoever awaits the run reports it
            worker.answering = None
            if worker.job is job:
                self._discard(worker, error)
                self._schedule()
            return
        if worker.job is job:
            worker.answering = None
            worker.channel.send(buffers)
