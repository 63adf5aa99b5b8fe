"""What `dispatcher` keeps of the pipes to engine processes, per pipe and per model. Thread: the event loop's."""

from __future__ import annotations

import math
from typing import Any

from redisai_py.bounded import BoundedCache
from redisai_py.engine.batching import BatchQueue
from redisai_py.engine.execution import Execution, Slot
from redisai_py.engine.isolation import batches
from redisai_py.engine.isolation.lane import Answer
from redisai_py.engine.isolation.messages import failure
from redisai_py.engine.isolation.pipe import Ended, Flight, Pipe
from redisai_py.engine.isolation.pipe_layout import MESSAGE_BYTES
from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.isolation.wire import Layout, Op
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.run import Run
from redisai_py.errors import BackendError, ProtocolError, RedisAIError

__all__ = [
    "LONG_S",
    "Line",
    "Linger",
    "ModelLines",
    "most_under_way",
    "read",
]

LONG_S = 0.0005
"""Batches that take longer are executed on several threads at once."""
_ALONE_S = 0.02
"""Behind one that takes longer none waits in the pipe, where it could not leave."""
_AHEAD_S = 0.0015
"""For so long the process has work without the event loop."""
_MOST = 32
_LAYOUTS = 256


class Line:
    """A pipe, and what the watchdog sees of it: the batch under way.

    seen: number of the last batch that had ended at the previous look.
    """

    __slots__ = ("model", "pipe", "process", "seen", "session", "slot")

    def __init__(
        self, pipe: Pipe[Execution], model: ModelLines, session: RemoteSession, process: EngineProcess, slot: Slot
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.session = session
        self.process = process
        self.seen = 0
        self.slot = slot
        slot.thread_id = -pipe.number

    def room(self, run_s: float) -> int:
        """How many runs that take this long may be put now, where at least one may."""
        return max(1, most_under_way(run_s) - len(self.pipe.flights)) if run_s <= LONG_S else 1

    def drop(self, run: Run) -> bool:
        """Have nobody wait for a run that has not begun; False if it is not here."""
        for flight in self._behind_the_first():
            if run in flight.batch.runs:
                run.dropped = flight.thinned = True
                return True
        return False

    def expire(self, now: float) -> list[tuple[QueuedModel, list[Run]]]:
        """The same for the runs whose TIMEOUT has passed, which are returned."""
        found = []
        for flight in self._behind_the_first():
            expired = [run for run in flight.batch.runs if run.deadline <= now and not run.dropped]
            for run in expired:
                run.dropped = flight.thinned = True
            if expired:
                found.append((flight.batch.loaded, expired))
        return found

    def next_deadline(self) -> float:
        """Of the runs that have not begun; infinity without one."""
        runs = [run for flight in self._behind_the_first() for run in flight.batch.runs if not run.dropped]
        return min((run.deadline for run in runs), default=math.inf)

    def _behind_the_first(self) -> list[Flight[Execution]]:
        pipe = self.pipe
        return [flight for number, flight in pipe.flights.items() if number > pipe.first]

    def begin(self, now: float) -> None:
        """The first batch that has not ended is under way from now on, if there is one."""
        flight = self.pipe.flights.get(self.pipe.first)
        execution = flight.batch if flight is not None else None
        if execution is not None:
            execution.started = now
            for run in execution.runs:
                run.started = True
        slot = self.slot
        with slot.guard:  # a stop that is under way is one of the batch before
            slot.current = None
        if execution is not None:
            slot.begin(execution)


class Linger:
    """Whether a batch that is not full waits for more runs although the process has nothing to do. Pure.

    Clients whose runs ended together ask again one after the other, in several iterations of the event loop. A batch
    that left with the first of them would be small, and so would the next one with the others; and half of what a small
    batch costs is the way there and back. So a batch smaller than the latest one waits while each iteration or two
    brings more, for at most a millisecond.
    """

    __slots__ = ("_begun", "_missed", "latest", "on")

    _LONGEST_S = 0.001
    _MISSED = 2

    def __init__(self) -> None:
        self.latest = 0
        """Runs of the latest batch; a batch of as many does not wait."""
        self.on = False
        self._missed = 0
        self._begun = 0.0

    def left(self, runs: int) -> None:
        """A batch of so many runs has left."""
        self.latest = runs
        self.on = False

    def begin(self, now: float) -> None:
        """A smaller batch waits; ask `goes_on` after each iteration of the loop."""
        self.on = True
        self._missed = 0
        self._begun = now

    def goes_on(self, came: bool, now: float) -> bool:
        """An iteration has ended. came: it has brought more runs."""
        self._missed = 0 if came else self._missed + 1
        if self._missed >= self._MISSED or now - self._begun > self._LONGEST_S:
            self.latest = 0
            self.on = False
        return self.on


class ModelLines:
    """What is kept for one model, and does not refer to it.

    queue: runs that wait for a pipe.   judging: ended pipes of which it is not known yet why.
    """

    __slots__ = ("answers", "judging", "layouts", "lines", "linger", "queue")

    def __init__(self, queue: BatchQueue[Run]) -> None:
        self.queue = queue
        self.lines: list[Line] = []
        self.judging = 0
        self.linger = Linger()
        self.layouts: BoundedCache[Any, Layout | None] = BoundedCache(_LAYOUTS)
        self.answers: BoundedCache[tuple[bytes, int], batches.Plain] = BoundedCache(_LAYOUTS)
        """What was answered to single runs lately, by header and bytes of the message."""

    def layout(self, first: Run, rows: int) -> Layout | None:
        """The message of a batch; None if it must not go through a pipe."""
        if first.key is None:
            return None
        kind = first.key, rows
        if rows and kind in self.layouts:
            return self.layouts[kind]
        layout = batches.layout_of(first.inputs, rows)  # type: ignore[arg-type]  # a key: no device arrays
        if layout is not None and layout.total > MESSAGE_BYTES:
            layout = None
        if rows:
            self.layouts.keep(kind, layout)
        return layout


def read(ended: Ended[Execution], model: ModelLines) -> None:
    """Fill in what came of a batch. Raises: ProtocolError."""
    execution = ended.flight.batch
    loaded = execution.loaded
    execution.run_s = ended.ns / 1e9
    session = loaded.session
    assert isinstance(session, RemoteSession)
    session.ran(ended.ns, ended.op == Op.DONE)
    runs = execution.runs
    try:
        if ended.op != Op.DONE:
            raise failure(Answer(ended.op, 0, ended.header, ended.message))
        single = len(runs) == 1
        known = model.answers.get((ended.header, len(ended.message))) if single else None
        if known is not None:
            execution.values = [known.values(ended.message)]
            return
        parts = ended.parts()
        if len(parts) != len(loaded.outputs):
            raise BackendError("ERR Model did not generate the expected number of outputs")
        execution.values = batches.values_of(parts, ended.message, [run.rows for run in runs])
        if single and batches.is_plain(parts):
            model.answers.keep((ended.header, len(ended.message)), batches.Plain(parts))
    except ProtocolError:
        execution.error = BackendError("ERR the model's engine process did not keep to the protocol")
        raise
    except RedisAIError as error:
        execution.error = error.with_traceback(None)
        error.__context__ = None


def most_under_way(run_s: float) -> int:
    """How many batches may be under way in a pipe that take this long; 0: unknown."""
    if not run_s or run_s > _ALONE_S:
        return 1
    return min(_MOST, 2 + int(_AHEAD_S / run_s))
