"""One engine process as the server's threads use it: lanes to it, what runs in it, and how it ended.

DESIGN. A thread that wants something from the process takes a lane: a socket pair, and memory that both sides map. It
writes its request there, sends a frame, and sleeps in the kernel, without the GIL, until the answer's frame arrives.
There are as many lanes as were ever needed at once, and the process has a thread for each. If the process ends, every
lane's socket ends. What was running then is recorded: one of these models is to blame.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redisai_py.engine.isolation import host, memory
from redisai_py.engine.isolation.at_once import PATIENCE_S
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.long_runs import LongRuns
from redisai_py.engine.isolation.pipe import Pipe
from redisai_py.engine.isolation.pipe_layout import PIPE_BYTES
from redisai_py.engine.isolation.zygotes import Zygote

__all__ = ["EngineProcess", "ProcessEnded"]

_T = TypeVar("_T")

_REPORT_S = 2.0
"""Seconds for the zygote to report how a process ended."""


class ProcessEnded(Exception):
    """The engine process ended before it answered. under_way: it was at this very request."""

    def __init__(self, process: EngineProcess) -> None:
        super().__init__("the engine process ended")
        self.process = process
        self.under_way = True


class EngineProcess:
    """One process, from its fork to its end.

    Args: number: of this server's processes.   place: its kind, for the code that chooses a process.
          alarm: to wake when an exchange begins.
          ended: called once, on the thread that notices first.
    """

    def __init__(
        self, number: int, place: str, zygote: Zygote, alarm: LongRuns, ended: Callable[[EngineProcess], object]
    ) -> None:
        self.number = number
        self.place = place
        self.pid: int | None = None
        self.users: set[Any] = set()
        """Sessions that are loaded in it, or being loaded."""
        self.dead = False
        self.retired = False
        """It is being ended because no model needs it."""
        self.suspects: dict[Any, bool] = {}
        """Sessions with runs or loads in progress when it ended; True: a load."""
        self.culprit: Any = None
        """The session whose run or load ended it, if known; known from `verdict` on."""
        self._blamed_for = ""
        self._verdict = threading.Event()
        self._status: int | None = None
        self._reported = threading.Event()
        self._zygote = zygote
        self._alarm = alarm
        self._ended = ended
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._at_once: Lane | None = None
        self._busy: dict[int, Lane] = {}
        self._lanes = 0
        self._pipes: list[Pipe[Any]] = []
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._far_end: socket.socket | None = far_end

    def fork(self, memory_limit_bytes: int) -> None:
        """Start the process."""
        far_end, self._far_end = self._far_end, None
        assert far_end is not None
        self._zygote.fork(self, far_end, {"memory_limit_bytes": memory_limit_bytes})

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def take(self, user: object, loads: bool = False) -> Lane:
        """A lane for one exchange; return it afterwards. Raises: ProcessEnded."""
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            lane = self._idle.pop() if self._idle else self._open_lane()
            lane.user = user
            lane.thread_id = threading.get_ident()
            lane.stopped = False
            lane.loads = loads
            lane.since = time.monotonic()
            lane.told = False
            self._busy[lane.number] = lane
        if self._alarm.asleep:
            self._alarm.wake()
        return lane

    def take_at_once(self, user: object) -> Lane:
        """A lane for one short exchange, whose answer the event loop awaits. Raises: ProcessEnded."""
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            lane, self._at_once = self._at_once, None
            if lane is None:
                lane = self._open_lane()
                lane.at_once = True
                lane.sock.settimeout(PATIENCE_S)
            lane.user = user
            lane.loads = lane.stopped = False
            lane.since = time.monotonic()
            self._busy[lane.number] = lane
            return lane

    def busy(self) -> list[Lane]:
        """Lanes with an exchange in progress. Thread: any."""
        with self._lock:
            return list(self._busy.values())

    def give_back(self, lane: Lane) -> None:
        """The exchange is over."""
        with self._lock:
            lane.user = None
            self._busy.pop(lane.number, None)
            if self.dead:
                lane.close()
            elif lane.at_once:
                self._at_once = lane
            else:
                self._idle.append(lane)

    def _open_lane(self) -> Lane:
        return self._opened(host.OPEN, 0, memory.LANE_FILE_BYTES, Lane)

    def open_pipe(self, user: object, model: int) -> Pipe[Any]:
        """A pipe to a model that is loaded, by its number there; whoever asks closes it.

        Raises: ProcessEnded; OSError: there are no files or no memory left.
        """
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            pipe: Pipe[Any] = self._opened(
                host.OPEN_PIPE, model, PIPE_BYTES, lambda number, sock, fd: Pipe(number, user, sock, fd)
            )
            self._pipes = [*self._pipes, pipe]
            return pipe

    def forget_pipe(self, pipe: Pipe[Any]) -> None:
        """A pipe was closed."""
        with self._lock:
            self._pipes = [each for each in self._pipes if each is not pipe]

    def _opened(self, what: int, detail: int, size: int, make: Callable[[int, socket.socket, int], _T]) -> _T:
        try:
            return self._open(what, detail, size, make)
        except OSError as error:
            if not self._control_ended():
                raise
            raise ProcessEnded(self) from error

    def _open(self, what: int, detail: int, size: int, make: Callable[[int, socket.socket, int], _T]) -> _T:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = -1
        try:
            fd = memory.create(size)
            self._lanes += 1
            socket.send_fds(self._control, [host.ORDER.pack(what, self._lanes, detail)], [far.fileno(), fd])
            return make(self._lanes, near, fd)
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
            if fd >= 0:
                os.close(fd)

    def _control_ended(self) -> bool:
        try:
            return self._control.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    # -- stopping ------------------------------------------------------------------------------------------------------

    def stop_runs(self, user: object, thread_id: int | None) -> list[Lane | Pipe[Any]]:
        """Tell runs of a session to stop; gives their lanes and pipes. Thread: any.

        Args: thread_id: of the thread that waits for the run, or minus the number of the pipe that carries it.
        """
        with self._lock:
            lanes = [
                lane
                for lane in self._busy.values()
                if lane.user is user and thread_id in (None, lane.thread_id) and not self.dead
            ]
            for lane in lanes:
                lane.stopped = True
                self._order(host.STOP, lane.number, 0)
            pipes = [
                pipe
                for pipe in self._pipes
                if pipe.user is user and thread_id in (None, -pipe.number) and pipe.current_number and not self.dead
            ]
            for pipe in pipes:
                pipe.stopped = pipe.current_number
                self._order(host.STOP_IN_PIPE, pipe.number, pipe.stopped)
        return [*lanes, *pipes]

    def _order(self, what: int, number: int, detail: int) -> None:
        with contextlib.suppress(OSError):  # it has ended, or takes no orders: whoever asked kills it
            self._control.send(host.ORDER.pack(what, number, detail), socket.MSG_DONTWAIT)

    def still_stopping(self, way: Lane | Pipe[Any], user: object) -> bool:
        """Whether a run that was told to stop goes on."""
        if isinstance(way, Pipe):
            return bool(way.stopped) and way.stopped == way.current_number and not self.dead
        return way.stopped and way.user is user and not self.dead

    def kill(self, user: object = None, why: str = "") -> None:
        """Kill it immediately. user: the culprit, if any.   Thread: any."""
        with self._lock:
            if self.dead:
                return
            if user is not None and self.culprit is None:
                self.culprit, self._blamed_for = user, why
        self._zygote.kill(self.number)

    # -- the end -------------------------------------------------------------------------------------------------------

    def lost(self) -> ProcessEnded:
        """A lane has ended. Records what ran. Returns: the exception to raise."""
        self._note_end()
        return ProcessEnded(self)

    def how(self) -> str:
        """How it ended, in one word: the signal, or the exit status."""
        self._reported.wait(_REPORT_S)
        if self._blamed_for:
            return self._blamed_for
        status = self._status
        if status is None:
            return "SIGKILL"  # together with the process from which it was forked
        if status >= 0:
            return f"exit status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def verdict(self) -> str:
        """How it ended, after `culprit` and the model's record were updated. Thread: any."""
        self._verdict.wait(2 * _REPORT_S)
        return self.how()

    def judged(self) -> None:
        """Make `verdict` available."""
        self._verdict.set()

    @property
    def ended_with_its_zygote(self) -> bool:
        """Whether no model of it is to blame, because the process from which it was forked has ended."""
        return self._reported.is_set() and self._status is None

    def started(self, pid: int) -> None:
        """See Child."""
        self.pid = pid

    def exited(self, status: int | None) -> None:
        """See Child."""
        self._status = status
        self._reported.set()
        self._note_end()

    def _note_end(self) -> None:
        with self._lock:
            if self.dead:
                return
            self.dead = True
            self.suspects = {pipe.user: False for pipe in self._pipes if pipe.current_number}
            self.suspects |= {lane.user: lane.loads for lane in self._busy.values() if lane.under_way}
            idle, self._idle = self._idle, []
            for lane in idle:
                lane.close()
            if self._at_once is not None:
                self._at_once.close()
            self._control.close()
        self._ended(self)
