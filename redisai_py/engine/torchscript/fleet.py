"""The worker processes: forked on demand up to a limit, kept while idle, and never shared by two owners."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Hashable
from typing import Protocol

from redisai_py.engine.torchscript.frames import Frame
from redisai_py.engine.torchscript.jobs import FRESH, ScriptSettings, Worker
from redisai_py.engine.torchscript.lane import Lane
from redisai_py.engine.torchscript.processes import Channel, Zygote, ZygoteEvents
from redisai_py.errors import BackendError, ProtocolError

__all__ = ["Fleet", "FleetEvents", "ScriptStopped", "death", "memory_text"]

# Frames carry tensors, strings and a header. A payload beyond the script's memory limit cannot be honest.
_PAYLOAD_SLACK_BYTES = 1 << 20

# Exit status of a worker that could not even send an error (redisai_py_torch.script_worker has the same number).
_OUT_OF_MEMORY_STATUS = 12


class ScriptStopped(BackendError):
    """The process in which a script ran has ended, or had to be ended. The text does not name the script."""


class FleetEvents(ZygoteEvents, Protocol):
    """Gets the events of the zygote and the frames of the workers."""

    def worker_sent(self, worker: Worker, frame: Frame) -> None:
        """A frame arrived."""

    def worker_broke_protocol(self, worker: Worker, error: ProtocolError) -> None:
        """It sent something that is not a frame."""


class Fleet:
    """The zygote and the workers it has forked. Everything runs on the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: FleetEvents) -> None:
        self._loop = loop
        self._events = events
        self._zygote: Zygote | None = None
        self._numbers = 0
        self._idle: list[Worker] = []
        self.workers: dict[int, Worker] = {}
        """Workers by number, from the request to fork them until they are removed."""

    def start(self) -> None:
        """Start the zygote unless there is one."""
        if self._zygote is None:
            self._zygote = Zygote(self._loop, self._events)

    def zygote_ended(self) -> None:
        """Forget the zygote, so that `start` starts another."""
        self._zygote = None

    async def close(self) -> None:
        """End the zygote; returns when no process is left."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.close()

    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return list(self._zygote.worker_pids.values()) if self._zygote else []

    def take_idle(self, pool: str, owner: Hashable) -> Worker | None:
        """A worker that had only jobs of this owner, or none yet."""
        for wanted in (owner, FRESH):
            for at in range(len(self._idle) - 1, -1, -1):  # the last one used has the warmest caches
                if self._idle[at].pool == pool and self._idle[at].owner == wanted:
                    return self._idle.pop(at)
        return None

    def rest(self, worker: Worker) -> None:
        """The worker has nothing to do."""
        self._idle.append(worker)

    def fork(self, pool: str, count: int, settings: ScriptSettings) -> None:
        """Fork workers until `count` are on their way, within the limit on all of them."""
        count -= sum(1 for worker in self.workers.values() if worker.pool == pool and not worker.ready)
        for _ in range(count):
            if pool != "CPU":  # a process on a GPU uses hundreds of megabytes there, so make room first
                for idle in [worker for worker in self._idle if worker.pool == pool]:
                    self.remove(idle)
            if len(self.workers) >= settings.max_processes:
                if not self._idle:
                    return
                self.remove(self._idle[0])  # the longest idle, of another device or owner
            self._fork_one(pool, settings)

    def _fork_one(self, pool: str, settings: ScriptSettings) -> None:
        assert self._zygote is not None
        self._numbers += 1
        limit = settings.script_memory_limit_bytes
        worker = Worker(self._numbers, pool, limit, Lane())
        near, far = socket.socketpair()
        worker.channel = Channel(
            self._loop,
            near,
            lambda frame: self._events.worker_sent(worker, frame),
            lambda error: self._events.worker_broke_protocol(worker, error),
            lambda: self._ended(worker),
            limit + _PAYLOAD_SLACK_BYTES if limit else 0,
        )
        self.workers[worker.number] = worker
        options = {"device": pool, "memory_limit_bytes": limit, "intra_op_threads": settings.intra_op_parallelism}
        self._zygote.fork(worker.number, far, worker.lane.fd, options)

    def _ended(self, worker: Worker) -> None:
        worker.ended = True
        if worker in self._idle:
            self._idle.remove(worker)

    def remove(self, worker: Worker) -> None:
        """Kill a worker and forget it."""
        del self.workers[worker.number]
        if worker in self._idle:
            self._idle.remove(worker)
        worker.channel.close()
        if self._zygote is not None:
            self._zygote.kill(worker.number)


def memory_text(worker: Worker, text: str) -> str:
    """The error of a script that ran out of memory; `text` is the framework's."""
    if not worker.memory_limit_bytes:
        return f"ERR out of memory: {text}"
    return f"ERR script needs more memory than SCRIPT_MEMORY_LIMIT ({worker.memory_limit_bytes} bytes) allows: {text}"


def death(worker: Worker, status: int) -> ScriptStopped:
    """The error of a job whose worker ended with that status; minus the signal's number if a signal ended it."""
    if status == _OUT_OF_MEMORY_STATUS:
        return ScriptStopped(memory_text(worker, "an allocation was refused"))
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return ScriptStopped(f"ERR script worker process was ended by {name}")
    return ScriptStopped(f"ERR script worker process ended with status {status}")
