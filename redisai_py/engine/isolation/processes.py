"""One engine process as the threads of a front door use it: lanes to it, what runs in it, and how it ended.

DESIGN. A thread that wants something from the process takes a lane: a socket pair, and memory that both sides map. It
writes its request there, sends a frame, and sleeps in the kernel, without the GIL, until the answer's frame arrives.
There are as many lanes as were ever needed at once, and the process has a thread for each. If the process ends, every
lane's socket ends. What was running then is recorded: one of these models is to blame. The manager of the processes
judges, since other front doors may use the process too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from redisai_py.engine.isolation import memory, orders
from redisai_py.engine.isolation.inline_runs import INLINE_TIMEOUT_S
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.long_runs import LongRuns
from redisai_py.engine.isolation.pipe import Pipe
from redisai_py.engine.isolation.pipe_layout import PIPE_BYTES
from redisai_py.engine.isolation.verdicts import Verdict

__all__ = ["EngineProcess", "ProcessEnded"]

_T = TypeVar("_T")

_VERDICT_S = 5.0
"""Seconds for the manager to say why a process ended."""


class ProcessEnded(Exception):
    """The engine process ended before it answered. under_way: it was at this very request."""

    def __init__(self, process: EngineProcess) -> None:
        super().__init__("the engine process ended")
        self.process = process
        self.under_way = True


class EngineProcess:
    """One process, from the first model that this front door has in it to its end, or until the last one leaves.

    Args: number: the manager's.   control: this front door's socket to it.   shared: other front doors may use it.
          alarm: to wake when an exchange begins.
          ended: called once with what was under way, on the thread that notices first: sessions; True: a load.
          kill: called with the process, the session to blame or None, and why.
    """

    def __init__(
        self,
        number: int,
        control: socket.socket,
        shared: bool,
        alarm: LongRuns,
        ended: Callable[[EngineProcess, dict[Any, bool]], object],
        kill: Callable[[EngineProcess, Any, str], object],
    ) -> None:
        self.number = number
        self.shared = shared
        self.pid: int | None = None
        self.users: set[Any] = set()
        """Sessions that are loaded in it, or being loaded."""
        self.programs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        """Sessions that are or were in it -> the manager's numbers of their models there."""
        self.dead = False
        """It has ended, or this front door has left it."""
        self._culprit = 0
        self._how = "SIGKILL"
        self._verdict = threading.Event()
        self._alarm = alarm
        self._ended = ended
        self._kill = kill
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._inline_lane: Lane | None = None
        self._busy: dict[int, Lane] = {}
        self._lanes = 0
        self._pipes: list[Pipe[Any]] = []
        self._control = control

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
            lane.reported = False
            self._busy[lane.number] = lane
        if self._alarm.asleep:
            self._alarm.wake()
        return lane

    def take_inline(self, user: object) -> Lane:
        """A lane for one short exchange, whose answer the event loop awaits. Raises: ProcessEnded."""
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            lane, self._inline_lane = self._inline_lane, None
            if lane is None:
                lane = self._open_lane()
                lane.inline = True
                lane.sock.settimeout(INLINE_TIMEOUT_S)
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
            elif not lane.inline:
                self._idle.append(lane)
            elif self._inline_lane is None:
                self._inline_lane = lane
            else:  # another model opened one meanwhile
                lane.close()

    def abandon(self, lane: Lane) -> None:
        """Nobody wants the answer that is still to come: the lane has no other use."""
        with self._lock:
            lane.user = None
            self._busy.pop(lane.number, None)
            if not self.dead:
                self._order(orders.STOP, lane.number, 0)
            lane.close()

    def _open_lane(self) -> Lane:
        return self._opened(orders.OPEN, 0, memory.LANE_FILE_BYTES, Lane)

    def open_pipe(self, user: object, model: int) -> Pipe[Any]:
        """A pipe to a model that is loaded, by its number there; whoever asks closes it.

        Raises: ProcessEnded; OSError: there are no files or no memory left.
        """
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            pipe: Pipe[Any] = self._opened(
                orders.OPEN_PIPE, model, PIPE_BYTES, lambda number, sock, fd: Pipe(number, user, sock, fd)
            )
            self._pipes = [*self._pipes, pipe]
            return pipe

    def open_scripts(self, size: int, make: Callable[[int, socket.socket, int], _T]) -> _T:
        """A lane for scripts, with `size` bytes of memory. make: gets its number, stream socket and memory.

        Raises: ProcessEnded; OSError: there are no files or no memory left.
        """
        with self._lock:
            if self.dead:
                raise ProcessEnded(self)
            return self._opened(orders.OPEN_SCRIPTS, 0, size, make)

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
        kind = socket.SOCK_STREAM if what == orders.OPEN_SCRIPTS else socket.SOCK_SEQPACKET
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        fd = -1
        try:
            fd = memory.create(size)
            self._lanes += 1
            socket.send_fds(self._control, [orders.ORDER.pack(what, self._lanes, detail)], [far.fileno(), fd])
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
                self._order(orders.STOP, lane.number, 0)
            pipes = [
                pipe
                for pipe in self._pipes
                if pipe.user is user and thread_id in (None, -pipe.number) and pipe.current_number and not self.dead
            ]
            for pipe in pipes:
                pipe.stopped = pipe.current_number
                self._order(orders.STOP_IN_PIPE, pipe.number, pipe.stopped)
        return [*lanes, *pipes]

    def _order(self, what: int, number: int, detail: int) -> None:
        with contextlib.suppress(OSError):  # it has ended, or takes no orders: whoever asked kills it
            self._control.send(orders.ORDER.pack(what, number, detail), socket.MSG_DONTWAIT)

    def turn_s(self, user: object, thread_id: int) -> float | None:
        """When a session's run had its turn, in monotonic seconds; None if it waits. thread_id: see `stop_runs`."""
        with self._lock:
            ways: list[Lane | Pipe[Any]] = [
                lane for lane in self._busy.values() if lane.user is user and lane.thread_id == thread_id
            ]
            ways += [pipe for pipe in self._pipes if pipe.user is user and pipe.number == -thread_id]
        return max((way.turn_s for way in ways if way.under_way), default=None)

    def still_stopping(self, way: Lane | Pipe[Any], user: object) -> bool:
        """Whether a run that was told to stop goes on."""
        if isinstance(way, Pipe):
            return bool(way.stopped) and way.stopped == way.current_number and not self.dead
        return way.stopped and way.user is user and not self.dead

    def kill(self, user: object = None, why: str = "") -> None:
        """Kill it immediately. user: the culprit, if any.   Thread: any."""
        if not self.dead:
            self._kill(self, user, why)

    # -- the end -------------------------------------------------------------------------------------------------------

    def lost(self) -> ProcessEnded:
        """A lane has ended. Records what ran. Returns: the exception to raise."""
        self.note_end()
        return ProcessEnded(self)

    def note_end(self) -> None:
        """It has ended: record what ran. Thread: any."""
        with self._lock:
            if self.dead:
                return
            suspects = {pipe.user: False for pipe in self._pipes if pipe.current_number}
            suspects |= {lane.user: lane.loads for lane in self._busy.values() if lane.under_way}
            self._hang_up()
        self._ended(self, suspects)

    def cut_off(self) -> None:
        """Leave it, whatever is under way: that is lost, and nobody is to blame. Thread: any."""
        with self._lock:
            if not self.dead:
                self._hang_up()
            for lane in self._busy.values():  # their threads wake up
                with contextlib.suppress(OSError):
                    lane.sock.shutdown(socket.SHUT_RDWR)
        self._verdict.set()

    def _hang_up(self) -> None:
        """Under the lock."""
        self.dead = True
        idle, self._idle = self._idle, []
        for lane in idle:
            lane.close()
        if self._inline_lane is not None:
            self._inline_lane.close()
        self._control.close()

    def judged(self, verdict: Verdict) -> None:
        """Make the verdict known. Thread: any."""
        with self._lock:
            if not self.dead:
                self._hang_up()
        self._culprit, self._how = verdict.culprit, verdict.how
        self._verdict.set()

    def verdict(self) -> str:
        """How it ended, after the models' records were updated. Thread: any."""
        self._verdict.wait(_VERDICT_S)
        return self._how

    def blames(self, user: object) -> bool:
        """Whether a session's model is to blame, after `verdict`."""
        return bool(self._culprit) and self.programs.get(user) == self._culprit
