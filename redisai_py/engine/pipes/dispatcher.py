"""Runs in engine processes that the event loop sends ahead: it waits for none, and no worker thread takes part.

A model has pipes to its process: one while its runs are short, otherwise one for each thread that may be in its session
at once. Batches are taken from the model's queue as soon as a pipe may take one, written into the pipe's memory, and
executed there one after the other, while the event loop serves clients. It reads what has ended when the process rings.

How many batches are under way in a pipe follows from how long they take: enough that the process need not wait for the
event loop, and so few that a run that comes next does not wait long behind them. A model with BATCHSIZE sends a batch
that is not full only to a process that has nothing to do: meanwhile more runs join it.

Worker threads still do all that is seldom and takes looking after (docs/adr/0043): they prove merging, repeat what
failed as a batch or died with its process, and run what does not fit into a pipe. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.engine.batching import BatchQueue
from redisai_py.engine.execution import Execution, Slot, Watch
from redisai_py.engine.isolation import batches
from redisai_py.engine.isolation.pipe import Flight, Pipe
from redisai_py.engine.isolation.pipe_layout import most_in_message
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.isolation.wire import Layout
from redisai_py.engine.pipes.lines import LONG_S, Line, ModelLines, most_under_way, read
from redisai_py.engine.pipes.repeats import forget_dropped, may_repeat, repeat
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.run import Run
from redisai_py.errors import ProtocolError, RedisAIError

__all__ = ["PipeDispatcher"]

_LOOK_S = 0.005


class PipeDispatcher:
    """Args: watchdog: see `Slot`.   settle: gets the Executions that ended together.
    expired: gets a model and its runs whose TIMEOUT passed.   post: a call on the event loop's thread, from any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        watchdog: Watch,
        settle: Callable[[list[Execution]], object],
        expired: Callable[[QueuedModel, list[Run]], object],
        post: Callable[[Callable[[Any], None], Any], object],
    ) -> None:
        self._loop = loop
        self._watchdog = watchdog
        self._settle = settle
        self._expired = expired
        self._post = post
        self._models: weakref.WeakKeyDictionary[QueuedModel, ModelLines] = weakref.WeakKeyDictionary()
        self._waiting: set[QueuedModel] = set()
        """Models with runs in our queue."""
        self._lines: tuple[Line, ...] = ()
        self._looks = False

    def takes(self, loaded: QueuedModel) -> bool:
        """Whether the model's runs are sent ahead."""
        session = loaded.session
        return (
            isinstance(session, RemoteSession)
            and not (session.in_server or session.stateful)
            and session.device.kind == "CPU"
            and loaded.queue.min_rows <= 1
        )

    # -- there ---------------------------------------------------------------------------------------------------------

    def lines_of(self, loaded: QueuedModel) -> ModelLines:
        """What is kept of the model's pipes."""
        model = self._models.get(loaded)
        if model is None:
            model = self._models[loaded] = ModelLines(BatchQueue(loaded.queue.max_rows))
        return model

    def send(self, loaded: QueuedModel) -> None:
        """Send what was asked for in this iteration of the loop, and what waits, as far as the pipes take it."""
        model = self.lines_of(loaded)
        for run in loaded.take_offered():
            model.queue.offer(run)
        self._go_on(loaded, model)

    def _go_on(self, loaded: QueuedModel, model: ModelLines) -> None:
        if not model.judging:
            try:
                self._fill(loaded, model)
            except (ProcessEnded, OSError):  # worker threads find out
                self._leave_to_threads(loaded, model)
            for line in list(model.lines):
                self.tell(line)
        if model.queue:
            self._waiting.add(loaded)
        else:
            self._waiting.discard(loaded)

    def tell(self, line: Line) -> None:
        """Tell the process of what was put into the pipe."""
        try:
            line.pipe.tell()
        except OSError:
            self._lost(line, nonsense=False)

    def _fill(self, loaded: QueuedModel, model: ModelLines) -> None:
        """Put batches into the pipes. Raises: ProcessEnded, OSError: no pipe can be opened."""
        session = loaded.session
        assert isinstance(session, RemoteSession)
        process = session.ahead()
        if process is None:
            self._leave_to_threads(loaded, model)
            return
        queue = model.queue
        if loaded.proof.reason and queue.max_rows:
            queue.stop_merging()
        now = time.monotonic()
        if queue.next_deadline <= now and (expired := queue.expire(now)):
            self._expired(loaded, expired)
        while queue:
            line = self._free_line(loaded, model, session, process)
            if line is None:
                return
            if queue.max_rows:
                batch = queue.take(now)
                assert isinstance(batch, list), "nothing is held for MINBATCHSIZE here"
                if not self._put(loaded, model, line, batch, now):
                    loaded.hand_over(batch)
            else:
                self._put_singly(loaded, model, line, now)

    def _leave_to_threads(self, loaded: QueuedModel, model: ModelLines) -> None:
        if runs := model.queue.clear():
            loaded.hand_over(runs)

    def _free_line(
        self, loaded: QueuedModel, model: ModelLines, session: RemoteSession, process: EngineProcess
    ) -> Line | None:
        """The pipe for the next batch; None if it must wait."""
        run_s = loaded.stats.short_run_s
        lines = model.lines
        best = min(lines, key=lambda line: len(line.pipe.flights)) if len(lines) > 1 else lines[0] if lines else None
        threads = loaded.concurrency if run_s > LONG_S or not run_s else 1  # 0: nobody knows yet
        if best is None or (best.pipe.flights and len(lines) < threads):
            return self.open(model, session, process)
        if run_s <= LONG_S:
            best = lines[0]
        pipe = best.pipe
        under_way = len(pipe.flights)
        max_rows = model.queue.max_rows
        if not under_way:
            return None if max_rows and run_s <= LONG_S and self._lingers(loaded, model) else best
        if (max_rows and len(model.queue) < max_rows) or not pipe.has_room:
            return None
        return best if under_way < most_under_way(run_s) else None

    def _lingers(self, loaded: QueuedModel, model: ModelLines) -> bool:
        """Whether a batch waits for more runs; see `Linger`."""
        linger, runs = model.linger, len(model.queue)
        if runs >= min(model.queue.max_rows, linger.latest):
            return False
        if not linger.on:
            linger.begin(time.monotonic())
            self._loop.call_soon(self._lingered, loaded, model)
        return True

    def _lingered(self, loaded: QueuedModel, model: ModelLines) -> None:
        """One more iteration of the loop has ended."""
        if not model.linger.on:
            return
        if model.linger.goes_on(bool(loaded.offered), time.monotonic()):
            self._loop.call_soon(self._lingered, loaded, model)
        else:
            self._go_on(loaded, model)

    def open(self, model: ModelLines, session: RemoteSession, process: EngineProcess) -> Line:
        """One more pipe. Raises: ProcessEnded, OSError."""
        pipe: Pipe[Execution] = session.open_pipe(process)
        line = Line(pipe, model, session, process, Slot(self._watchdog))
        model.lines.append(line)
        self._lines = (*self._lines, line)
        self._loop.add_reader(pipe.sock.fileno(), self._hear, line)
        return line

    def _put(self, loaded: QueuedModel, model: ModelLines, line: Line, batch: list[Run], now: float) -> bool:
        """Put a batch into the pipe; False if a thread must take it."""
        first = batch[0]
        alone = len(batch) == 1
        rows = first.rows if alone else sum([run.rows for run in batch])
        layout = model.layout(first, rows)
        if layout is None or not (alone or not loaded.proof.wanted(first.key)):
            return False
        message = line.pipe.put([Execution(loaded, batch, rows)], layout)
        batches.write(message, layout, [run.inputs for run in batch])  # type: ignore[misc]  # no device arrays
        model.linger.left(len(batch))
        self._begun(line, 1, now)
        return True

    def _put_singly(self, loaded: QueuedModel, model: ModelLines, line: Line, now: float) -> None:
        """Put runs of one kind into the pipe that are not merged, as one message."""
        first = model.queue.first_alone()
        layout = model.layout(first, first.rows)
        if layout is None:  # a thread must take it
            loaded.hand_over(model.queue.take_alone(1))
            return
        runs = model.queue.take_alone(
            min(line.room(loaded.stats.short_run_s), most_in_message(len(layout.header), layout.total))
        )
        self.put(loaded, line, runs, layout, now)

    def put(self, loaded: QueuedModel, line: Line, runs: Sequence[Run], layout: Layout, now: float) -> None:
        """Put runs of this layout into a pipe that has room, as one message."""
        rows = runs[0].rows
        message = line.pipe.put([Execution(loaded, [run], rows) for run in runs], layout)
        batches.write_each(message, layout, [run.inputs for run in runs])  # type: ignore[misc]  # no device arrays
        self._begun(line, len(runs), now)

    def _begun(self, line: Line, count: int, now: float) -> None:
        """So many batches were put into the pipe."""
        if len(line.pipe.flights) == count:
            line.begin(now)
            if not self._looks:
                self._looks = True
                self._loop.call_later(_LOOK_S, self._look)

    # -- and back ------------------------------------------------------------------------------------------------------

    def _hear(self, line: Line) -> None:
        """The process has rung, or its end of the pipe is closed."""
        try:
            if line.pipe.hear():
                self._take(line, line.pipe.ended_number)
            else:
                self._lost(line, nonsense=False)
        except (ProtocolError, OSError) as error:
            self._lost(line, nonsense=isinstance(error, ProtocolError))

    def _look(self) -> None:
        """Take also what the process has not rung for: the run that it is at may not end.

        What had ended at the previous look has been written to the memory by now, whatever the machine.
        """
        self._looks = False
        for line in self._lines:
            if line.pipe.flights:
                self._looks = True
                seen, line.seen = line.seen, line.pipe.ended_number
                try:
                    self._take(line, seen)
                except ProtocolError:
                    self._lost(line, nonsense=True)
        if self._looks:
            self._loop.call_later(_LOOK_S, self._look)

    def _take(self, line: Line, up_to: int) -> None:
        """Read what has ended, give the pipe more to do, and then the runs their results. Raises: ProtocolError."""
        pipe = line.pipe
        done: list[Flight[Execution]] = []
        try:
            while (ended := pipe.take_ended(up_to)) is not None:
                done.append(ended.flight)
                read(ended, line.model)
        finally:
            if done:
                now = time.monotonic()
                line.begin(now)
                latest = done[-1].batch
                if latest.error is None:
                    latest.loaded.inline.measured(latest.runs[0].key, latest.rows, latest.run_s, latest.run_s)
                self._go_on(latest.loaded, line.model)
                self._end(done, line.process, now)

    def _end(self, done: list[Flight[Execution]], process: EngineProcess, now: float) -> None:
        ended = []
        for flight in done:
            execution = flight.batch
            execution.started = execution.started or now - execution.run_s
            if flight.thinned and not forget_dropped(execution):
                continue
            if (stop := execution.stop) is not None:
                if stop.repeats:
                    repeat(execution, singly=True)
                    continue
                execution.error, execution.values = stop.error, None
            elif execution.error is not None and may_repeat(execution, process):
                repeat(execution, singly=False)
                continue
            ended.append(execution)
        self._settle(ended)

    # -- runs that leave -----------------------------------------------------------------------------------------------

    def drop(self, loaded: QueuedModel, run: Run) -> bool:
        """Take a run out that has not begun; False if it is not here."""
        model = self._models.get(loaded)
        return model is not None and (model.queue.drop(run) or any(line.drop(run) for line in model.lines))

    def expire(self, now: float) -> float:
        """End the runs whose TIMEOUT has passed; the next deadline, or infinity."""
        next_deadline = math.inf
        for loaded in list(self._waiting):
            queue = self._models[loaded].queue
            if expired := queue.expire(now):
                self._expired(loaded, expired)
            next_deadline = min(next_deadline, queue.next_deadline)
        for line in self._lines:
            for loaded, runs in line.expire(now):
                self._expired(loaded, runs)
            next_deadline = min(next_deadline, line.next_deadline())
        return next_deadline

    def abandon(self) -> list[tuple[QueuedModel, list[Run]]]:
        """Take out all runs that wait for a pipe."""
        waiting, self._waiting = self._waiting, set()
        return [(loaded, self._models[loaded].queue.clear()) for loaded in waiting]

    def slots(self) -> list[Slot]:
        """What the watchdog looks at. Thread: any."""
        return [line.slot for line in self._lines]

    def owns(self, slot: Slot) -> bool:
        """Whether it is one of ours: what does not end there is killed."""
        return any(line.slot is slot for line in self._lines)

    def executing(self) -> list[Execution]:
        """The batches under way."""
        return [line.slot.current for line in self._lines if line.slot.current is not None]

    def close(self) -> None:
        """Close the pipes: nothing is sent any more, and nobody waits for a result."""
        for line in self._lines:
            self._loop.remove_reader(line.pipe.sock.fileno())
            line.pipe.close()
        self._lines = ()

    # -- the end of a pipe ---------------------------------------------------------------------------------------------

    def _lost(self, line: Line, nonsense: bool) -> None:
        """The process has ended, will be killed, or does not have the model any more."""
        pipe = line.pipe
        if line not in self._lines:
            return
        self._lines = tuple(each for each in self._lines if each is not line)
        line.model.lines.remove(line)
        self._loop.remove_reader(pipe.sock.fileno())
        line.model.judging += 1  # nothing is sent meanwhile
        if not nonsense:
            try:
                self._take(line, pipe.ended_number)
            except ProtocolError:
                nonsense = True
        current = pipe.current_number
        left = list(pipe.flights.items())
        with line.slot.guard:
            line.slot.current = None
        if left:
            name = "redisai lost process"
            threading.Thread(target=self._judge, args=(line, left, current, nonsense), name=name, daemon=True).start()
            return
        pipe.close()
        line.process.forget_pipe(pipe)
        line.model.judging -= 1
        for loaded in [each for each in self._waiting if self._models[each] is line.model]:
            self._go_on(loaded, line.model)  # there is no verdict to wait for

    def _judge(self, line: Line, left: Sequence[tuple[int, Flight[Execution]]], current: int, nonsense: bool) -> None:
        """On a thread of its own, since it takes a moment until it is known how the process ended."""
        error = line.session.why_it_ended(line.process, nonsense)
        self._post(self._judged, (line, left, current, error))

    def _judged(self, found: tuple[Line, Sequence[tuple[int, Flight[Execution]]], int, RedisAIError | None]) -> None:
        line, left, current, error = found
        line.process.forget_pipe(line.pipe)
        line.pipe.close()
        line.model.judging -= 1
        failed = []
        loaded = left[0][1].batch.loaded
        for number, flight in left:
            execution = flight.batch
            if flight.thinned and not forget_dropped(execution):
                continue
            stop = execution.stop
            if stop is not None and not stop.repeats:
                execution.error = stop.error
                failed.append(execution)
            elif number == current and error is not None and len(execution.runs) == 1:
                execution.error = error
                failed.append(execution)
            else:
                repeat(execution, singly=number == current)
        self._settle(failed)
        self._go_on(loaded, line.model)
