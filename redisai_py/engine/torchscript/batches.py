"""What becomes of the calls of a batch: their outcomes, and which of them are run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from redisai_py.engine.settle import deliver
from redisai_py.engine.torchscript.calls import TOO_LARGE, Result
from redisai_py.engine.torchscript.fleet import ScriptStopped, memory_text
from redisai_py.engine.torchscript.jobs import Execution, Job, Worker
from redisai_py.errors import BackendError

__all__ = ["Ended", "distrust", "repeated", "settle", "take_results"]

_TRIES = 3

Ended = list[tuple[Execution, Result]]
"""Calls that have ended, with their results."""


def take_results(worker: Worker) -> Ended:
    """The calls that have ended since the last look. Raises: ProtocolError."""
    ended: Ended = []
    for result in worker.lane.take(len(worker.jobs)):
        job = worker.jobs[worker.taken]
        assert isinstance(job, Execution)
        ended.append((job, result))
        worker.taken += 1
    return ended


def settle(loop: asyncio.AbstractEventLoop, worker: Worker, ended: Ended) -> list[Job]:
    """Give calls their outcomes. Returns: those whose outputs were too large: they are to go alone."""
    now = time.perf_counter()
    too_large: list[Job] = []
    for job, result in ended:
        run = job.run
        if run.done:  # its client has gone, or its TIMEOUT is over
            continue
        if result.op == TOO_LARGE:
            job.function.too_large = True
            job.message = None
            too_large.append(job)
            continue
        if job.timer is not None:
            job.timer.cancel()
        run.started = True
        run.duration_us = duration_us = result.run_ns // 1000
        run.queued_us = max(0, int((now - job.requested) * 1e6) - duration_us)
        if result.outputs is not None:
            job.function.ran(duration_us / 1e6)
            deliver(loop, run.resolve, result.outputs)
        elif result.told.get("memory"):
            deliver(loop, run.fail, ScriptStopped(memory_text(worker, result.told["text"])))
        else:
            deliver(loop, run.fail, BackendError(result.told["text"]))
    return too_large


def repeated(loop: asyncio.AbstractEventLoop, jobs: Sequence[Job], error: BaseException | None) -> list[Job]:
    """Of the calls that a worker did not come to those that are to be run again; those tried too often fail.

    error: why the worker ended.
    """
    again = []
    for job in jobs:
        if job.outcome.done:
            continue
        job.tries += 1
        if job.tries < _TRIES:
            again.append(job)
        else:
            deliver(loop, job.outcome.fail, error or ScriptStopped("ERR script worker process did not run the call"))
    return again


def distrust(worker: Worker) -> None:
    """The call that is being run asks for something, and was said not to: its function goes alone from now on."""
    for job in worker.jobs[worker.lane.begun() - 1 :][:1]:
        if isinstance(job, Execution):
            job.function.pure = False
