"""The workers, engine processes that run scripts: started on demand up to a limit, kept while idle, and never shared by
two owners.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from redisai_py.engine.isolation.memory import SCRIPT_LANE_BYTES
from redisai_py.engine.isolation.script_process import ScriptProcess
from redisai_py.engine.isolation.verdicts import exit_word
from redisai_py.engine.torchscript.frame_stream import FrameStream
from redisai_py.engine.torchscript.jobs import FRESH, ScriptSettings, Worker
from redisai_py.engine.torchscript.lane import Lane
from redisai_py.errors import BackendError, ProtocolError, RedisAIError
from redisai_py.framing import Frame, encode_frame

__all__ = ["Fleet", "FleetEvents", "ScriptStopped", "death", "memory_text"]

# Frames carry tensors, strings and a header. A payload beyond the script's memory limit cannot be honest.
_PAYLOAD_SLACK_BYTES = 1 << 20

# Exit status of a worker that could not even send an error (redisai_py_torch.script_worker has the same number).
_OUT_OF_MEMORY_STATUS = 12


class ScriptStopped(BackendError):
    """The process in which a script ran has ended, or had to be ended. The text does not name the script."""


class FleetEvents(Protocol):
    """Gets what becomes of the workers, and their frames. Thread: the event loop's."""

    def worker_sent(self, worker: Worker, frame: Frame) -> None:
        """A frame arrived."""

    def worker_broke_protocol(self, worker: Worker, error: ProtocolError) -> None:
        """It sent something that is not a frame."""

    def worker_not_started(self, worker: Worker, error: RedisAIError) -> None:
        """There can be none."""

    def worker_exited(self, worker: Worker, status: int | None) -> None:
        """It ended: its exit status, or minus the signal's number; None: not known, as if the manager ended."""


class Fleet:
    """The workers. Everything runs on the event loop's thread, but processes are started on threads of their own.

    Args: start: makes a process, given whom to tell of its end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        events: FleetEvents,
        start: Callable[[Callable[[int | None], object]], ScriptProcess],
    ) -> None:
        self._loop = loop
        self._events = events
        self._start = start
        self._numbers = 0
        self._idle: list[Worker] = []
        self.workers: dict[int, Worker] = {}
        """Workers by number, from the request to start them until they are removed."""

    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        pids = [worker.process.pid for worker in self.workers.values()]
        return [pid for pid in pids if pid]

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
        self._numbers += 1
        worker = Worker(self._numbers, pool, settings.script_memory_limit_bytes)
        worker.process = self._start(lambda status: self._tell(self._events.worker_exited, worker, status))
        options = {
            "device": pool,
            "memory_limit_bytes": worker.memory_limit_bytes,
            "intra_op_threads": settings.intra_op_parallelism,
        }
        threading.Thread(target=self._open, args=(worker, options), name="redisai script", daemon=True).start()
        self.workers[worker.number] = worker  # what the thread reports comes later

    def _open(self, worker: Worker, options: dict[str, Any]) -> None:
        """Have the process started. On a thread of its own: that takes milliseconds, and importing torch seconds."""
        try:
            opened = worker.process.start(SCRIPT_LANE_BYTES, lambda _, sock, fd: (sock, Lane(fd)))
        except RedisAIError as error:
            self._tell(self._events.worker_not_started, worker, error)
        except Exception as error:  # whoever waits for the worker must get it
            text = f"ERR a script worker cannot be started: {str(error) or type(error).__name__}"
            self._tell(self._events.worker_not_started, worker, BackendError(text))
        else:
            if opened is not None and not self._tell(self._opened, worker, *opened, options):
                opened[0].close()

    def _tell(self, what: Callable[..., object], *arguments: Any) -> bool:
        """Call it on the loop's thread; False if the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *arguments)
            return True
        return False

    def _opened(self, worker: Worker, sock: socket.socket, lane: Lane, options: dict[str, Any]) -> None:
        if worker.number not in self.workers:  # removed meanwhile
            sock.close()
            worker.process.kill()
            return
        limit = worker.memory_limit_bytes
        worker.lane = lane
        worker.stream = FrameStream(
            self._loop,
            sock,
            lambda frame: self._events.worker_sent(worker, frame),
            lambda error: self._events.worker_broke_protocol(worker, error),
            lambda: self._ended(worker),
            limit + _PAYLOAD_SLACK_BYTES if limit else 0,
        )
        worker.started = True
        worker.stream.send(encode_frame({"op": "open", "options": options}))

    def _ended(self, worker: Worker) -> None:
        worker.ended = True
        if worker in self._idle:
            self._idle.remove(worker)
        worker.process.note_end()

    def remove(self, worker: Worker) -> None:
        """Kill a worker and forget it."""
        del self.workers[worker.number]
        if worker in self._idle:
            self._idle.remove(worker)
        worker.process.kill()
        if worker.started:
            worker.stream.close()


def memory_text(worker: Worker, text: str) -> str:
    """The error of a script that ran out of memory; `text` is the framework's."""
    if not worker.memory_limit_bytes:
        return f"ERR out of memory: {text}"
    return f"ERR script needs more memory than SCRIPT_MEMORY_LIMIT ({worker.memory_limit_bytes} bytes) allows: {text}"


def death(worker: Worker, status: int | None) -> ScriptStopped:
    """The error of a job whose worker ended (`FleetEvents.worker_exited`)."""
    if status is None:
        return ScriptStopped("ERR script worker process ended")
    if status == _OUT_OF_MEMORY_STATUS:
        return ScriptStopped(memory_text(worker, "an allocation was refused"))
    how = f"was ended by {exit_word(status)}" if status < 0 else f"ended with status {status}"
    return ScriptStopped(f"ERR script worker process {how}")
