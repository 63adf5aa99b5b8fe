"""Dispatches the runs of one iteration of the event loop: to a worker thread, or to the event loop itself.

Runs requested in one iteration are collected first, so that they can be merged. Then each model's runs are executed on
the event loop, in turns and within a budget, if its InlinePolicy allows the batch; otherwise they go to its device's
threads. What exceeds the budget continues in the next iteration, after I/O. While a thread has runs of a model, all of
that model's runs go there, so that order is kept and a session is never entered twice. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from redisai_py.engine.execution import Execution, Slot, execute, execute_inline
from redisai_py.engine.isolation.inline_runs import INLINE_TIMEOUT_S, WouldBlock
from redisai_py.engine.merging import signature
from redisai_py.engine.pipes.dispatcher import PipeDispatcher
from redisai_py.engine.pipes.offloading import FEWEST_TOGETHER, Offloader
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.reports import Counters, Executed
from redisai_py.engine.run import LoadedModel, Run, Value
from redisai_py.engine.settings import EngineSettings
from redisai_py.tensor import Tensor

__all__ = ["Dispatcher"]

_T = TypeVar("_T")

_SHARE = 1.5
"""Immediate runs may use two thirds of the time: after each, half of its duration is left for everything else."""


class Dispatcher:
    """Args: slot: the event loop's own.   notable: see `Engine`.
    settle: gets every Execution of queued runs.   expired: gets a model and its runs whose TIMEOUT passed before they
    were run here.
    pipes: takes the runs of models in engine processes.
    """

    def __init__(
        self,
        settings: EngineSettings,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        slot: Slot,
        notable: Callable[[Executed, BaseException | None], object],
        settle: Callable[[Execution], object],
        expired: Callable[[QueuedModel, list[Run]], object],
        pipes: PipeDispatcher | None = None,
    ) -> None:
        self._pipes = pipes
        self._offloader = Offloader(loop, pipes, settings.processes) if pipes is not None else None
        self._call_soon = loop.call_soon
        self._budget_s = settings.inline_budget_us / 1e6
        self._slow_run_s = settings.slow_run_s
        self._counters = counters
        self._slot = slot
        self._notable = notable
        self._settle = settle
        self._expired = expired
        self._report = self._executed  # bound once, not for each batch
        self.closing = False
        """No request is run inline any more."""
        self._waiting: list[QueuedModel] = []  # models with runs to dispatch
        self._scheduled = False
        self._concurrent = False  # several runs came together recently
        self._inline_not_before = 0.0  # no inline run before this time, so that others are served too
        self._afterwards: list[Callable[[], object]] | None = None  # a list while runs are in progress here

    def call_afterwards(self, callback: Callable[[], object]) -> None:
        """Call this when the runs of this iteration have their results; soon, if none are in progress."""
        if self._afterwards is not None:
            self._afterwards.append(callback)
        else:
            self._call_soon(callback)

    def offer(self, run: Run, loaded: QueuedModel) -> None:
        """Run this, soon."""
        offered = loaded.offered
        if not offered and not (loaded.queue and not loaded.on_threads):
            self._waiting.append(loaded)
            if not self._scheduled:
                self._scheduled = True
                self._call_soon(self._wait_a_turn if self._concurrent else self._flush)
        offered.append(run)

    def run_inline(self, loaded: LoadedModel, inputs: Sequence[Tensor]) -> tuple[list[Value], float] | None:
        """Run in this call and count the run, if the model's runs are short, nothing else waits, and no other run is
        likely to come soon.

        Collecting and merging takes as long as a tiny model's run; a single client need not wait for that.
        Returns: the outputs and the seconds that the framework took. None if it must be queued instead, or has failed:
                 the queued run then gets the error. In that case nothing was counted.
        """
        queued: QueuedModel = loaded  # type: ignore[assignment]  # there is no other kind
        if self._waiting or self._concurrent or self._afterwards is not None or self.closing:
            return None
        if queued.unfinished or queued.stuck:
            return None
        rows, kind = signature(inputs)
        now = time.monotonic()
        if now < self._inline_not_before or rows > queued.inline.short_rows.get(kind, -1):
            return None
        execution = execute_inline(self._slot, queued, rows, inputs)
        run_s = execution.run_s
        self._inline_not_before = now + _SHARE * run_s
        self._judge(execution)  # failed or stopped runs took their time, too
        if execution.values is None:
            return None
        outputs = execution.values[0]
        queued.stats.executed_singly(rows, run_s, outputs)
        self._counters.executions[queued.model.backend] += 1
        if run_s >= self._slow_run_s:
            self._notable(execution.report(), None)
        return outputs, run_s

    def _judge(self, execution: Execution) -> None:
        """Tell the policy of a slow run, and of any run while it is in doubt."""
        policy = execution.loaded.inline
        if policy.doubtful or execution.run_s > policy.slow_s:
            policy.ran(execution.run_s, execution.cpu_s)

    def next_deadline(self) -> float:
        """A lower bound of the deadlines of the runs collected here."""
        return min((_next_deadline(loaded) for loaded in self._waiting), default=math.inf)

    def abandon(self) -> list[tuple[QueuedModel, list[Run]]]:
        """Remove all runs collected here."""
        found = []
        for loaded in self._waiting:
            runs = [] if loaded.on_threads else loaded.queue.clear()
            found.append((loaded, runs + loaded.take_offered()))
        self._waiting.clear()
        return found

    def drop(self, run: Run, loaded: QueuedModel) -> bool:
        """Remove a run that is collected here; False if it is not."""
        if run in loaded.offered:
            loaded.offered.remove(run)
            return True
        if self._pipes is not None and self._pipes.drop(loaded, run):
            return True
        return not loaded.on_threads and loaded.queue.drop(run)

    def _wait_a_turn(self) -> None:
        """Read the clients' sockets once more: with several busy clients, another turn of the loop brings more runs, so
        that per-batch work is shared by more of them.
        """
        self._call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, []
        self._concurrent = len(waiting) > 1 or len(waiting[0].offered) > 1 if waiting else False
        here: deque[QueuedModel] = deque()
        for loaded in waiting:
            if self._pipes is not None and self._pipes.takes(loaded):
                self._pipes.send(loaded)
            elif loaded.on_threads or not loaded.inline.enabled:
                self._hand_over(loaded, [])
            else:
                if self._offloader is not None and len(loaded.offered) >= FEWEST_TOGETHER:
                    self._offloader.share(loaded)
                here.append(loaded)
        if here:
            self.together(self._run_here, here)

    def together(self, work: Callable[[_T], object], argument: _T) -> None:
        """Do what gives several runs their results; see `call_afterwards`."""
        afterwards = self._afterwards = []
        try:
            work(argument)
        finally:
            self._afterwards = None
            for callback in afterwards:
                callback()

    def _hand_over(self, loaded: QueuedModel, first: list[Run]) -> None:
        """Give a model's runs to its device's threads: `first`, then those queued here, then the newest."""
        if not loaded.on_threads:
            first += loaded.queue.clear()
        first += loaded.take_offered()
        if first:
            loaded.hand_over(first)

    def _run_here(self, models: deque[QueuedModel]) -> None:
        """Execute one batch per model in turn, at least one, until none is left or the budget is used up."""
        now = time.monotonic()
        until = now + self._budget_s
        while True:
            loaded = models.popleft()
            batch = self._next_batch(loaded, now)
            if batch:
                self._run_batch(loaded, batch)
            # Runs offered during this batch are collected for the next turn, unless older ones of the model remain.
            if not loaded.on_threads and (loaded.queue or (loaded.offered and loaded not in self._waiting)):
                models.append(loaded)
            if not models:
                return
            now = time.monotonic()
            if now >= until:
                break
        self._waiting = [*models, *self._waiting]
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def _next_batch(self, loaded: QueuedModel, now: float) -> list[Run]:
        """The next batch that may run here; empty if there is none, then the others have gone to the threads."""
        offered = loaded.offered
        queue = loaded.queue
        batch: list[Run] | float | None
        count = queue.leading_batch(offered, now) if offered else 0
        if count:
            batch = offered[:count]
            del offered[:count]
        else:
            for run in loaded.take_offered():
                queue.offer(run)
            if queue.next_deadline <= now:
                self._expired(loaded, queue.expire(now))
            batch = queue.take(now)
        if not isinstance(batch, list):
            return []  # batches are never held here: models with MINBATCHSIZE have no inline policy
        kind = batch[0].key
        alone = len(batch) == 1
        rows = batch[0].rows if alone else sum([run.rows for run in batch])
        if rows <= loaded.inline.short_rows.get(kind, -1) and (alone or not loaded.proof.wanted(kind)):
            return batch
        self._hand_over(loaded, batch)
        return []

    def _run_batch(self, loaded: QueuedModel, batch: list[Run]) -> None:
        for run in batch:
            run.started = True
        try:
            execute(self._slot, loaded, batch, self._report)
        except WouldBlock:
            loaded.inline.ran(INLINE_TIMEOUT_S, 0.0)
            left = [run for run in batch if not run.done]
            for run in left:
                run.started = False
            self._hand_over(loaded, left)

    def _executed(self, execution: Execution) -> None:
        self._judge(execution)
        self._settle(execution)


def _next_deadline(loaded: QueuedModel) -> float:
    own = math.inf if loaded.on_threads else loaded.queue.next_deadline
    return min((run.deadline for run in loaded.offered), default=own)
