"""A worker: takes one job after the other, and runs each in a process of its own, until it is stopped.

It sends a heartbeat every few seconds. If a worker is silent for `claim_after_s`, another worker takes its job; if the
first one comes back, it finds that it no longer owns the job and abandons it.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import socket
import threading
from collections.abc import Callable

import redis

from redisai_py.jobs.execution import execute
from redisai_py.jobs.queue import Queue, Taken, Unusable

__all__ = ["MAX_ATTEMPTS", "Worker"]

MAX_ATTEMPTS = 3
_BLOCK_MS = 1000
_PAUSE_S = 1.0
_LASTING = ("WRONGTYPE", "unknown command", "ERR unknown command")
"""What Redis says of the queue when trying again helps nothing. All else ends: loading, full, a replica, read-only."""

_processes = multiprocessing.get_context("forkserver")


class Worker:
    """url: of Redis or of `redisai serve`; deployment needs the latter.

    data: the only directory from which jobs may read files.   claim_after_s: silence after which others take the job.
    told: called with each line of progress.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "ai:",
        name: str | None = None,
        data: str | None = None,
        claim_after_s: float = 30,
        max_attempts: int = MAX_ATTEMPTS,
        told: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._url, self._prefix, self._data = url, prefix, data
        self._queue = Queue(url, prefix)
        self._claim_ms = int(claim_after_s * 1000)
        self._max_attempts = max_attempts
        self._told = told
        self._stopping = threading.Event()
        _processes.set_forkserver_preload(
            ["redisai_py.jobs.execution", "redisai_py.pipeline.run", "redisai_py.pipeline.builders.scikit"]
        )

    def stop(self) -> None:
        """Take no more jobs; finish the current one."""
        self._stopping.set()

    def run(self, jobs: int | None = None) -> int:
        """Work until `stop`, or until `jobs` jobs have been taken. Returns: how many were taken."""
        taken_in_all = 0
        ready = False
        while not self._stopping.is_set() and taken_in_all != jobs:
            try:
                if not ready:
                    self._queue.prepare()
                    ready = True
                self._queue.beat(self.name, None, self._claim_ms)
                taken = self._queue.take(self.name, self._claim_ms, _BLOCK_MS)
                if taken is not None:
                    taken_in_all += 1
                    self._attempt(taken)
            except Unusable as error:
                self._told(str(error))
            except redis.exceptions.NoPermissionError:
                raise
            except redis.RedisError as error:
                if str(error).startswith(_LASTING):
                    raise
                ready = False  # the database may have been emptied, before we waited or meanwhile
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    self._told(f"Redis: {error}")
                    self._stopping.wait(_PAUSE_S)
        return taken_in_all

    def _attempt(self, taken: Taken) -> None:
        """See to a job. What Redis refuses is told; the job is claimed again by whoever finds it idle."""
        try:
            self._attend(taken)
        except redis.exceptions.NoPermissionError:
            raise
        except redis.ResponseError as error:
            self._told(f"{taken.id}: {error}")
            self._stopping.wait(_PAUSE_S)

    def _attend(self, taken: Taken) -> None:
        if taken.attempt > self._max_attempts:
            text = f"given up after {self._max_attempts} attempts"
            last = self._queue.get(taken.id).fields.get("error")
            self._end(taken, "failed", {"error": f"{text}; the last: {last}" if last else text})
            return
        self._told(f"{taken.id}: attempt {taken.attempt}")
        self._queue.say(taken, f"attempt {taken.attempt} by {self.name}")
        state, fields = self._supervise(taken)
        if state == "retry" and taken.attempt >= self._max_attempts:
            state = "failed"
        if state == "retry":
            self._queue.note(taken, state="queued", **fields)
            self._queue.say(taken, f"failed, will be tried again: {fields['error']}")
            self._told(f"{taken.id}: {fields['error']}; will be tried again")
        elif state == "lost":
            self._told(f"{taken.id}: another worker has it")
        else:
            self._end(taken, state, fields)

    def _end(self, taken: Taken, state: str, fields: dict[str, str]) -> None:
        said = fields.get("error") or fields.get("artifact") or ""
        self._queue.say(taken, f"{state} {said}".strip())
        ours = self._queue.end(taken, state, **fields)
        self._told(f"{taken.id}: {state} {said}".rstrip() if ours else f"{taken.id}: another worker has it")

    def _supervise(self, taken: Taken) -> tuple[str, dict[str, str]]:
        """Run the attempt, send heartbeats, and end it if it is cancelled. Returns: how it ended."""
        ours, theirs = _processes.Pipe(duplex=False)
        process = _processes.Process(
            target=execute, args=(self._url, self._prefix, self._data, taken, theirs), daemon=True
        )
        process.start()
        theirs.close()
        try:
            while not ours.poll(self._claim_ms / 6000):
                if not self._beat(taken):
                    process.kill()
                    return ("cancelled" if "cancel" in self._queue.get(taken.id).fields else "lost"), {}
            received: tuple[str, dict[str, str]] = ours.recv()
            return received
        except EOFError:
            process.join(10)
            return "retry", {"error": f"the process of the job ended with exit code {process.exitcode}"}
        finally:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            ours.close()

    def _beat(self, taken: Taken) -> bool:
        try:
            return self._queue.beat(self.name, taken, self._claim_ms)
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError) as error:
            self._told(f"Redis: {error}")
            return True  # `end` checks again whether the job is still ours
