"""What the workers are doing: who gets which job, what they say of it, and what becomes of it if one ends.

A job goes to a worker alone, and the worker may ask for a Redis command or a model's run while it is at it; or, if it
is a short call without effects, together with others through the worker's lane (docs/adr/0045). While a batch is with
a worker, short calls gather for the next one: two workers would share out what one does in as many wake-ups.

Rules: everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any

from redisai_py.engine.settle import deliver
from redisai_py.engine.torchscript.batches import Ended, distrust, repeated, settle, take_results
from redisai_py.engine.torchscript.fleet import Fleet, ScriptStopped, death, memory_text
from redisai_py.engine.torchscript.frames import CALLS, decode_tensors
from redisai_py.engine.torchscript.hosts import Question, parse_question
from redisai_py.engine.torchscript.jobs import Compilation, Execution, Job, ScriptRun, ScriptSettings, Worker
from redisai_py.engine.torchscript.queues import JobQueues
from redisai_py.errors import BackendError, ProtocolError, RedisAIError, RunTimeout
from redisai_py.framing import Frame, encode_frame
from redisai_py.pending import Pending

__all__ = ["Work"]

_LOOK_S = 0.01
"""How often somebody looks how far a batch has come."""
_LATE_S = 0.1
"""An event loop that is this late with a time limit has been held up."""
_TINY_S = 0.0001
"""A call that takes less is not worth a second worker."""


class Work:
    """Args: settings: the engine's, now."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, queues: JobQueues, fleet: Fleet, settings: Callable[[], ScriptSettings]
    ) -> None:
        self._loop = loop
        self._queues = queues
        self._fleet = fleet
        self._settings = settings
        self._running: dict[str, int] = {}
        self._gathering: dict[str, Worker] = {}
        """The workers with a batch of short calls, by queue."""

    @property
    def idle(self) -> bool:
        """Whether nobody is at work."""
        return not self._running

    def worker_of(self, outcome: Pending[Any]) -> Worker | None:
        """Who has the job with this outcome."""
        for worker in self._fleet.workers.values():
            if any(job.outcome is outcome for job in worker.jobs):
                return worker
        return None

    def not_begun(self, outcome: Pending[Any]) -> bool:
        """Whether the job with this outcome lies in a worker's lane, and the worker has not come to it."""
        worker = self.worker_of(outcome)
        if worker is None or not worker.batch:
            return False
        return any(job.outcome is outcome for job in worker.jobs[worker.lane.begun() :])

    def schedule(self) -> None:
        """Give waiting jobs to idle workers, and fork workers for jobs that could run but find none."""
        if not self._queues.waiting:
            return
        wanted: dict[str, int] = {}
        limit = self._settings().threads_per_queue
        by_name = self._queues.by_name
        for name in list(by_name):
            while (queue := by_name.get(name)) and self._running.get(name, 0) < limit:
                head = queue[0]
                if head.message is not None and self._gathers(name, head.owner, head):
                    break
                worker = self._fleet.take_idle(head.pool, head.owner)
                if worker is None:
                    free = limit - self._running.get(name, 0)
                    wanted[head.pool] = wanted.get(head.pool, 0) + min(len(queue), free)
                    break
                self._begin(worker, name)
        for pool, count in wanted.items():
            self._fleet.fork(pool, count, self._settings())

    def _gathers(self, name: str, owner: Hashable, head: Job) -> bool:
        """Whether a short call had better wait for the end of a batch."""
        worker = self._gathering.get(name)
        if worker is None or worker.late or worker.owner != owner:
            return False
        return isinstance(head, Execution) and head.function.ran_s < _TINY_S

    # -- the beginning -------------------------------------------------------------------------------------------------

    def _begin(self, worker: Worker, name: str) -> None:
        """Send jobs to an idle worker; back with them if it has just ended."""
        jobs = self._queues.take(name)
        if not jobs:
            self._fleet.rest(worker)
            return
        first = jobs[0]
        batch = first.message is not None
        if batch:
            worker.lane.write([part for job in jobs for part in job.message or ()])
        if not worker.stream.send([CALLS] if batch else first.frame()):
            worker.ended = True
            self._queues.put_back(jobs)
            return
        self._running[name] = self._running.get(name, 0) + 1
        worker.owner = first.owner
        worker.jobs, worker.batch, worker.taken = jobs, batch, 0
        if batch:
            self._begun_together(worker, name)
        else:
            self._begun_alone(worker, first)

    def _begun_together(self, worker: Worker, name: str) -> None:
        self._gathering[name] = worker
        worker.late = False
        worker.seen, worker.since = 0, time.perf_counter()
        if worker.timer is None:  # else it looks at this batch in place of the last one
            worker.timer = self._loop.call_later(_LOOK_S, self._look, worker)

    def _begun_alone(self, worker: Worker, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
        if isinstance(job.outcome, ScriptRun):
            job.outcome.started = True
            job.outcome.queued_us = int((time.perf_counter() - job.requested) * 1e6)
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        limit_ms = self._settings().script_execution_timeout_ms
        if limit_ms:
            self._limit(worker, limit_ms, limit_ms / 1000)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _limit(self, worker: Worker, limit_ms: int, left_s: float) -> None:
        due = self._loop.time() + left_s
        worker.timer = self._loop.call_later(left_s, self._time_over, worker, limit_ms, due)

    def _time_over(self, worker: Worker, limit_ms: int, due: float) -> None:
        """Stop a job that went alone, unless the event loop is so late that the worker cannot be blamed: the machine or
        this process stood still, and what the worker has sent meanwhile is not read yet.
        """
        worker.timer = None
        late_s = self._loop.time() - due
        if late_s > _LATE_S:
            self._limit(worker, limit_ms, late_s)
        else:
            self._stop(worker, limit_ms)

    def _stop(self, worker: Worker, limit_ms: int) -> None:
        text = f"ERR script ran longer than SCRIPT_EXECUTION_TIMEOUT ({limit_ms} ms) and was stopped"
        self.discard(worker, RunTimeout(text))
        self.schedule()

    def _look(self, worker: Worker) -> None:
        """See how far a batch has come: what is finished need not wait for what takes long."""
        worker.timer = None
        if not worker.batch:
            return
        worker.timer = self._loop.call_later(_LOOK_S, self._look, worker)
        try:
            ended = take_results(worker)
            begun = worker.lane.begun()
        except ProtocolError as error:
            self.worker_broke_protocol(worker, error)
            return
        now = time.perf_counter()
        if begun != worker.seen or ended:
            worker.seen, worker.since = begun, now
        limit_ms = self._settings().script_execution_timeout_ms
        if now - worker.since > 2 * _LOOK_S:
            worker.late = True
        if limit_ms and now - worker.since >= max(limit_ms / 1000, _LOOK_S) - _LOOK_S / 2:
            self._stop(worker, limit_ms)
        elif worker.late:
            self.schedule()
        self._settle(worker, ended)

    # -- what workers say ----------------------------------------------------------------------------------------------

    def worker_sent(self, worker: Worker, frame: Frame) -> None:
        """Handle a worker's message (called by `Fleet`)."""
        try:
            self._handle(worker, *frame)
        except Exception as error:  # a worker that a script has taken over may send anything
            self.worker_broke_protocol(worker, ProtocolError(f"ERR script worker sent a malformed frame: {error!r}"))

    def worker_broke_protocol(self, worker: Worker, error: ProtocolError) -> None:
        """A worker that violates the protocol is no longer under our control (called by `Fleet`)."""
        self.discard(worker, ScriptStopped(str(error)))
        self.schedule()

    def _handle(self, worker: Worker, header: dict[str, Any], payload: memoryview) -> None:
        op = header["op"]
        if op == "ready" and not worker.ready:
            worker.ready = True
            self._fleet.rest(worker)
            self.schedule()
        elif not worker.jobs or worker.answering is not None:
            raise ProtocolError(f"unexpected {op}")
        elif op == "source":
            worker.stream.send(encode_frame({"op": "source", "source": _source(worker, header)}))
        elif worker.batch:
            if op != "done":
                distrust(worker)
                raise ProtocolError(f"unexpected {op}")
            self._batch_done(worker)
        else:
            self._handle_alone(worker, worker.jobs[0], op, header, payload)

    def _handle_alone(self, worker: Worker, job: Job, op: str, header: dict[str, Any], payload: memoryview) -> None:
        if op == "result" and isinstance(job, Execution):
            outputs = decode_tensors(header["tensors"], payload)
            duration_us = job.run.duration_us = int(header["duration_us"])
            job.function.pure = header["pure"] is True
            job.function.ran(duration_us / 1e6)
            self._finish(worker, outputs, None)
        elif op == "compiled" and isinstance(job, Compilation):
            self._finish(worker, None, None)
        elif op == "error":
            self._fail(worker, header)
        else:
            if job.host is None:
                raise ProtocolError(f"unexpected {op}")
            question = parse_question(op, header, payload, job.host)
            worker.answering = self._loop.create_task(self._answer(worker, job, question))

    async def _answer(self, worker: Worker, job: Job, question: Question) -> None:
        try:
            buffers = await question()
        except RedisAIError as error:
            buffers = encode_frame({"op": "failure", "text": error.wire()})
        except Exception as error:  # a bug of the host: the run ends with it, and whoever awaits the run reports it
            worker.answering = None
            if job in worker.jobs:
                self.discard(worker, error)
                self.schedule()
            return
        if job in worker.jobs:
            worker.answering = None
            worker.stream.send(buffers)

    # -- the end of a job that went alone ------------------------------------------------------------------------------

    def _finish(self, worker: Worker, value: Any, error: RedisAIError | None) -> None:
        (job,) = self._end(worker)
        if not worker.ended:
            self._fleet.rest(worker)
        self.schedule()  # before the outcome is told: the worker need not wait for what that leads to
        if error is None:
            deliver(self._loop, job.outcome.resolve, value)
        else:
            deliver(self._loop, job.outcome.fail, error)

    def _fail(self, worker: Worker, header: dict[str, Any]) -> None:
        text = str(header["text"])
        if not header.get("memory"):
            self._finish(worker, None, BackendError(text))
            return
        self.discard(worker, ScriptStopped(memory_text(worker, text)))
        self.schedule()

    def _end(self, worker: Worker) -> list[Job]:
        """Take its jobs from a worker; those of a batch that have not ended."""
        jobs, worker.jobs = worker.jobs, []
        if worker.timer is not None and not worker.batch:
            worker.timer.cancel()
            worker.timer = None
        if not jobs:
            return []
        name = jobs[0].queue
        if self._gathering.get(name) is worker:
            del self._gathering[name]
        left = self._running[name] - 1
        if left:
            self._running[name] = left
        else:
            del self._running[name]
        worker.batch = False
        return jobs[worker.taken :]

    # -- the end of a batch --------------------------------------------------------------------------------------------

    def _batch_done(self, worker: Worker) -> None:
        ended = take_results(worker)
        rest = self._end(worker)
        if ended and ended[-1][1].told.get("memory"):  # it serves no more
            self._fleet.remove(worker)
        elif not worker.ended:
            self._fleet.rest(worker)
        self._queues.put_back(repeated(self._loop, rest, None))
        self.schedule()  # see `_finish`
        self._settle(worker, ended)

    def _settle(self, worker: Worker, ended: Ended) -> None:
        too_large = settle(self._loop, worker, ended)
        if too_large:
            self._queues.put_back(too_large)
            self.schedule()

    # -- the end of a worker -------------------------------------------------------------------------------------------

    def ended(self, worker: Worker, status: int | None) -> BackendError:
        """A worker ended (`FleetEvents.worker_exited`). Returns: the error of the job that it was at."""
        worker.ended = True
        if worker.started:
            worker.stream.read()  # its last messages may arrive later than the news of its end
        error = death(worker, status)
        if worker.number in self._fleet.workers:
            self.discard(worker, error, blameless=status is None)
        return error

    def discard(self, worker: Worker, error: BaseException, blameless: bool = False) -> None:
        """Kill a worker and forget it; the job that it was at fails with `error`, others are run again.

        blameless: so is that job, if it has no effects.

        A running call of the host is allowed to finish first: the client's next command must not overtake the script's
        requests to Redis.
        """
        self._fleet.remove(worker)
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        batch = worker.batch
        ended: Ended = []
        try:
            if batch:
                ended = take_results(worker)
        except ProtocolError as nonsense:
            error = ScriptStopped(str(nonsense))
        at_work = batch and worker.lane.begun() > worker.taken
        rest = self._end(worker)
        if rest and not batch:
            self._fail_alone(worker, rest[0], error)
            return
        if rest and at_work and not blameless:
            job = rest.pop(0)
            if isinstance(job.outcome, ScriptRun):
                job.outcome.started = True
            deliver(self._loop, job.outcome.fail, error)
        self._queues.put_back(repeated(self._loop, rest, error))
        self._settle(worker, ended)

    def _fail_alone(self, worker: Worker, job: Job, error: BaseException) -> None:
        if worker.answering is None:
            deliver(self._loop, job.outcome.fail, error)
        else:
            outcome = job.outcome
            worker.answering.add_done_callback(lambda _: outcome.fail(error))


def _source(worker: Worker, header: dict[str, Any]) -> str:
    """The text of the script that the worker asks for: one that it is to run. Raises: ProtocolError."""
    for job in worker.jobs:
        if isinstance(job, Execution) and job.known.script.identity == header["id"]:
            return job.source
    raise ProtocolError("unexpected source")
