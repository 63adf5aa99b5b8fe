"""Runs of a busy event loop that the model's engine process takes over.

A short model in the server is computed on the event loop, so on one core, by which all else waits for it. Where many of
its runs come together and another core is free, the model is loaded in an engine process too, and process and event
loop share the runs: each flush sends a part of them ahead (`dispatcher`), and the loop computes the others meanwhile.

Which part follows from how the process comes along: if it had nothing left to do at a flush, it gets more next time,
otherwise less. So a process that gets no core, since others use it, gets hardly any runs. And nothing is sent while the
event loop is idle now and then, or has to share its own core. docs/adr/0050.

Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from dataclasses import dataclass, field
from itertools import takewhile

from redisai_py.engine.isolation.pipe_layout import most_in_message
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.pipes.dispatcher import PipeDispatcher
from redisai_py.engine.pipes.lines import LONG_S, Line
from redisai_py.engine.queued import QueuedModel
from redisai_py.machine import granted_cores

__all__ = ["FEWEST_TOGETHER", "LoopLoad", "OffloadShare", "Offloader"]

FEWEST_TOGETHER = 4
"""Fewer runs of a model that come together are not shared."""
_SHORTEST_S = 0.00002
"""A shorter run costs less than sending it."""
_WANTED = 64
"""A process is asked for when it would have been used so often."""
_UNUSED_S = 60.0
"""A process that was not used for so long is let go; after one could not be used, none is asked for as long."""
_LEAST, _MOST = 2, 32
"""Runs in one message."""


class OffloadShare:
    """Which part of a model's runs its process gets. Pure."""

    __slots__ = ("_part",)

    _LEAST, _MOST, _UP, _DOWN = 0.05, 0.8, 0.03, 0.01

    def __init__(self) -> None:
        self._part = 0.5

    def of(self, runs: int, waiting: int) -> int:
        """How many of `runs` new ones to send, while the process still has `waiting`."""
        if waiting:
            self._part = max(self._LEAST, self._part - self._DOWN)
        else:
            self._part = min(self._MOST, self._part + self._UP)
        return max(0, int(self._part * (runs + waiting)) - waiting)


class LoopLoad:
    """Whether the event loop has no idle time, and a core to itself. Thread: the event loop's.

    On a machine whose cores others use too, sending runs away costs more than it gives.
    """

    __slots__ = ("_cpu_s", "_is", "_since")

    _WINDOW_S, _BEGINS, _ENDS = 0.02, 0.9, 0.7

    def __init__(self) -> None:
        self._is = False
        self._since = self._cpu_s = 0.0

    def look(self, now: float) -> bool:
        """now: monotonic seconds."""
        passed_s = now - self._since
        if passed_s >= self._WINDOW_S:
            cpu_s = time.thread_time()
            used = (cpu_s - self._cpu_s) / passed_s
            self._since, self._cpu_s = now, cpu_s
            self._is = used >= (self._ENDS if self._is else self._BEGINS)
        return self._is


@dataclass(slots=True)
class _Model:
    """A model whose runs are shared, or would be. asked: when a process was asked for."""

    session: RemoteSession
    share: OffloadShare = field(default_factory=OffloadShare)
    wanted: int = 0
    asked: float = -_UNUSED_S
    used: float = 0.0


class Offloader:
    """Args: processes: front doors of the server, each of which needs a core itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipes: PipeDispatcher, processes: int) -> None:
        self._loop = loop
        self._pipes = pipes
        self._free_core = granted_cores() >= processes + 1
        self._models: weakref.WeakKeyDictionary[QueuedModel, _Model] = weakref.WeakKeyDictionary()
        self._busy = LoopLoad()
        self._looks = False

    def share(self, loaded: QueuedModel) -> None:
        """Send a part of what was asked for in this iteration of the loop ahead; the rest stays."""
        session = loaded.session
        if not (self._free_core and isinstance(session, RemoteSession) and session.in_server):
            return
        if loaded.queue.max_rows or not _SHORTEST_S <= loaded.stats.short_run_s <= LONG_S:
            return
        now = time.monotonic()
        if not self._busy.look(now):
            return
        model = self._models.get(loaded)
        if model is None:
            model = self._models[loaded] = _Model(session)
        process = session.beside()
        if process is None:
            self._want(model, now)
            return
        try:
            line = self._line(loaded, session, process)
        except (ProcessEnded, OSError):  # its end is noticed elsewhere
            return
        if line is not None:
            count = model.share.of(len(loaded.offered), line.pipe.waiting)
            if count >= _LEAST and line.pipe.has_room:
                model.used = now
                self._send(loaded, line, min(count, _MOST), now)

    def _line(self, loaded: QueuedModel, session: RemoteSession, process: EngineProcess) -> Line | None:
        """The pipe; None while it is not known why one has ended. Raises: ProcessEnded, OSError."""
        lines = self._pipes.lines_of(loaded)
        if lines.judging:
            return None
        return lines.lines[0] if lines.lines else self._pipes.open(lines, session, process)

    def _send(self, loaded: QueuedModel, line: Line, most: int, now: float) -> None:
        """Send up to `most` of the oldest runs, if they are of one kind."""
        offered = loaded.offered
        first = offered[0]
        rows, key = first.rows, first.key
        layout = line.model.layout(first, rows) if rows else None
        if layout is None:
            return
        most = min(most, most_in_message(len(layout.header), layout.total))
        runs = list(takewhile(lambda run: run.rows == rows and run.key == key and run.deadline > now, offered[:most]))
        if runs:
            del offered[: len(runs)]
            self._pipes.put(loaded, line, runs, layout, now)
            self._pipes.tell(line)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _want(self, model: _Model, now: float) -> None:
        """Ask for a process if one was wanted often."""
        model.wanted += 1
        if model.wanted < _WANTED:
            return
        model.wanted = 0
        if now - model.asked >= _UNUSED_S:
            model.asked = model.used = now
            model.session.want_beside(True)
            self._look_later()

    def _look_later(self) -> None:
        if not self._looks:
            self._looks = True
            self._loop.call_later(_UNUSED_S / 2, self._look)

    def _look(self) -> None:
        """Let go of processes that are not used any more."""
        self._looks = False
        now = time.monotonic()
        for model in list(self._models.values()):
            if model.session.beside() is None:
                continue
            if now - model.used >= _UNUSED_S:
                model.asked = -_UNUSED_S
                model.session.want_beside(False)
            else:
                self._look_later()
