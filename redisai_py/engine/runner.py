"""Running models: from a client's request to its result, wherever it is executed, and whatever ends it earlier.

The dispatcher collects a run, and executes it on the event loop or gives it to its device's threads. It leaves there by
being executed, cancelled, expired (TIMEOUT) or abandoned. An execution ends by itself, is stopped by the watchdog
(MODEL_EXECUTION_TIMEOUT), or is abandoned with its thread. Every way ends here: count, then give the results.

Thread: the event loop's. Other threads report through the mailbox.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from redisai_py.backend import DeviceArray
from redisai_py.engine.devices import Devices
from redisai_py.engine.dispatch import Dispatcher
from redisai_py.engine.execution import Execution, Slot
from redisai_py.engine.expiry import Expiry
from redisai_py.engine.loader import Loader
from redisai_py.engine.mailbox import Mailbox
from redisai_py.engine.pipes.dispatcher import PipeDispatcher
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.reports import Counters, Executed, GivenUp
from redisai_py.engine.run import LoadedModel, Run, Value
from redisai_py.engine.runaways import STUCK, Runaways
from redisai_py.engine.settings import EngineSettings
from redisai_py.engine.settle import deliver, settle
from redisai_py.engine.stats import samples
from redisai_py.engine.watchdog import Watchdog
from redisai_py.engine.worker import HandOver
from redisai_py.errors import Overloaded, QueueTimeout
from redisai_py.tensor import Tensor

__all__ = ["SHUTTING_DOWN", "Runner"]

SHUTTING_DOWN = "ERR the server is shutting down"


class Runner:
    """Everything that runs, and its threads.

    Args: counters: the engine's.   notable, ended_merging, given_up: see `Engine`.
          idle: called when a model's last unfinished run has ended.
          stuck: gets each model with a run that does not end, and whether that was its warm-up.
          isolated: models may be in engine processes.
    """

    def __init__(
        self,
        settings: EngineSettings,
        loop: asyncio.AbstractEventLoop,
        mailbox: Mailbox,
        counters: Counters,
        notable: Callable[[Executed, BaseException | None], object],
        ended_merging: Callable[[LoadedModel], object],
        given_up: Callable[[GivenUp], object],
        idle: Callable[[], object],
        stuck: Callable[[QueuedModel, bool], object],
        isolated: bool = False,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._counters = counters
        self._notable = notable
        self._ended_merging = ended_merging
        self._idle = idle
        self._stuck = stuck
        post = mailbox.post
        limit_ms = settings.model_execution_timeout_ms
        self.watchdog = Watchdog(limit_ms, self._slots, partial(post, self._overdue), partial(post, self._give_up))
        stopped = partial(post, self._thread_ended, None)
        self.devices = Devices(
            settings,
            partial(post, self._executed_on_thread),
            partial(post, self._expired_on_threads),
            self.watchdog,
            stopped,
        )
        self.loader = Loader(settings.load_threads, stopped, settings.worker_nice)
        self.load_slots: list[Slot] = []
        """Slots of warm-ups."""
        self.runaways = Runaways(loop, self.loader, given_up, isolated)
        self._own_slot = own_slot = Slot(self.watchdog)
        self._pipes = (
            PipeDispatcher(loop, self.watchdog, self._executed_ahead, self._expired_here, post) if isolated else None
        )
        self._dispatcher = Dispatcher(
            settings, loop, counters, own_slot, notable, self._executed, self._expired_here, self._pipes
        )
        self.run_inline = self._dispatcher.run_inline
        self.call_afterwards = self._dispatcher.call_afterwards
        self._expiry = Expiry(loop, self._expire)
        self.closing = self._threads_end = False
        self._ended_threads = 0

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run_model(
        self,
        loaded: LoadedModel,
        inputs: Sequence[Tensor | DeviceArray],
        timeout_ms: int | None = None,
        *,
        keep_on_device: bool = False,
        counted: bool = True,
        alone: bool = False,
    ) -> Run:
        """Queue a run.

        Args:    inputs: one per input of the model, in order; the caller checks the number. Device arrays are outputs
                 of other runs; those on another device are copied to host memory.
                 timeout_ms: limit of the time in the queue.
                 keep_on_device: outputs of a GPU model may be device arrays; such a run is not merged.
                 counted: False leaves the counters to `count`, for operations of a DAG that may turn out as not
                 executed.
                 alone: neither merge it nor hold it for a batch.
        Returns: the awaitable run. It has already failed with Overloaded if the queue is full or the engine closes.
        """
        run = Run(loaded, inputs)
        run.counted = counted
        run.keep_on_device = keep_on_device and loaded.model.device.kind == "GPU"
        if run.keep_on_device or alone:
            run.rows = 0
        self.queue(run, loaded, timeout_ms)
        return run

    def queue(self, run: Run, loaded: LoadedModel, timeout_ms: int | None = None) -> None:
        """Queue a run that was created elsewhere; see `run_model`."""
        queued: QueuedModel = loaded  # type: ignore[assignment]  # there is no other kind
        if self.closing or queued.stuck or queued.unfinished >= self._settings.queue_limit:
            self._refuse(run, queued)
            return
        if timeout_ms is not None:
            run.deadline = run.since + timeout_ms / 1000
            self._expiry.by(run.deadline)
        queued.begin()
        self._dispatcher.offer(run, queued)

    def _refuse(self, run: Run, loaded: QueuedModel) -> None:
        full = f"ERR the model's run queue is full: {loaded.unfinished} runs are waiting or running"
        run.loaded = None
        self._counters.refused += 1
        run.fail(Overloaded(SHUTTING_DOWN if self.closing else STUCK if loaded.stuck else full))

    def cancel_queued(self, loaded: QueuedModel, run: Run) -> bool:
        """See Run.cancel_queued."""
        if run.started:
            return False
        if not self._dispatcher.drop(run, loaded):
            if not (loaded.on_threads and loaded.device.drop(loaded, run)):
                return False
            loaded.come_back(1)
        self._end([run], loaded, asyncio.CancelledError())
        return True

    def count(self, loaded: LoadedModel, run: Run) -> None:
        """Count a run that ended and was started with `counted=False`."""
        queued: QueuedModel = loaded  # type: ignore[assignment]  # there is no other kind
        if run.ran_s is None or run.counted:
            return
        run.counted = True
        if run.error is None:
            queued.stats.succeeded(1, run.ran_s, samples(run.result()))
        else:
            queued.stats.failed(run.error)

    def discount(self, loaded: LoadedModel, ran_s: float, outputs: Sequence[Value] | None) -> None:
        """Undo the count of a run (outputs: None if it failed): an input had changed, so its command runs again."""
        queued: QueuedModel = loaded  # type: ignore[assignment]  # there is no other kind
        queued.stats.discount(ran_s, samples(outputs or ()), failed=outputs is None)

    # -- results -------------------------------------------------------------------------------------------------------

    def _executed_on_thread(self, execution: Execution) -> None:
        if execution.stop is not None and execution.stop.given_up:
            self.runaways.ended(execution)
            return
        loaded = execution.loaded
        loaded.come_back(len(execution.runs))
        if execution.error is None:
            loaded.inline.measured(execution.runs[0].key, execution.rows, execution.run_s, execution.cpu_s)
        self._executed(execution)

    def _executed_ahead(self, executions: Sequence[Execution]) -> None:
        self._dispatcher.together(self._each_executed, executions)

    def _each_executed(self, executions: Sequence[Execution]) -> None:
        for execution in executions:
            self._executed(execution)

    def _overdue(self, execution: Execution) -> None:
        """A run was told to stop: its clients get the error now, whenever the framework obeys."""
        assert execution.stop is not None
        self._settle(execution, execution.stop.error)

    def _give_up(self, lost: tuple[Slot, Execution]) -> None:
        """A run continues although it was told to stop: replace its thread, and load its model again when it is next
        needed.
        """
        slot, execution = lost
        if self._pipes is not None and self._pipes.owns(slot):
            return
        if self._threads_end or not slot.retire(execution):
            return
        loaded = execution.loaded
        assert execution.stop is not None
        execution.stop.given_up = True
        loaded.give_up()
        self._settle(execution, execution.stop.error)
        self._stuck(loaded, slot.thread is not None)
        waiting = [*slot.behind, *loaded.device.abandon_model(loaded)]
        loaded.come_back(len(execution.runs) + len(waiting))
        loaded.end(len(execution.runs))
        self._end([*waiting, *loaded.take_offered()], loaded, Overloaded(STUCK))
        with suppress(RuntimeError):  # no more threads available: fewer remain then
            if slot.thread is not None:
                self.loader.replace(slot.thread)
            elif not slot.lent:
                self.devices.replace(slot)
        self.runaways.add(execution)

    def _executed(self, execution: Execution) -> None:
        """An execution ended: every run gets its result, and drops its reference to the model."""
        loaded = execution.loaded
        loaded.end(len(execution.runs))
        self._counters.executions[loaded.model.backend] += 1
        if execution.ended_merging:
            self._ended_merging(loaded)
        self._settle(execution, execution.error)
        if not loaded.unfinished:
            self._idle()

    def _settle(self, execution: Execution, error: BaseException | None) -> None:
        if (error is not None or execution.run_s >= self._settings.slow_run_s) and not execution.settled:
            self._notable(execution.report(), error)
        settle(execution, error, self._loop)

    def _end(self, runs: Iterable[Run], loaded: QueuedModel, error: BaseException) -> None:
        """Fail runs that never started."""
        for run in runs:
            loaded.end(1)
            run.loaded = None
            run.inputs = ()
            deliver(self._loop, run.fail, error)
        if not loaded.unfinished:
            self._idle()

    def _expire(self, now: float) -> float:
        """End the runs whose TIMEOUT has passed. Returns: the next deadline, or infinity."""
        next_deadline = self._dispatcher.next_deadline()
        if self._pipes is not None:
            next_deadline = min(next_deadline, self._pipes.expire(now))
        for device in self.devices:
            expired, of_device = device.expire(now)
            for each in expired:
                self._expired_on_threads(each)
            next_deadline = min(next_deadline, of_device)
        return next_deadline

    def _expired_on_threads(self, expired: HandOver) -> None:
        loaded, runs = expired
        loaded.come_back(len(runs))
        self._expired_here(loaded, runs)

    def _expired_here(self, loaded: QueuedModel, runs: Sequence[Run]) -> None:
        self._counters.timed_out += len(runs)
        for run in runs:
            self._end([run], loaded, QueueTimeout())

    # -- threads -------------------------------------------------------------------------------------------------------

    def threads_busy(self) -> bool:
        """Whether a worker thread is running a model. Called twice per relayed command, so it avoids generators."""
        for device in self.devices.by_name.values():
            for slot in device.slots:
                if slot.current is not None:
                    return True
        return self._pipes is not None and bool(self._pipes.executing())

    def lend(self, thread_id: int) -> None:
        """A run takes long in an engine process: give its thread a successor."""
        if not self.closing:
            self.devices.lend(thread_id)

    def _slots(self) -> list[Slot]:
        ahead = [] if self._pipes is None else self._pipes.slots()
        return [self._own_slot, *self.devices.slots(), *ahead, *self.load_slots]

    def executing_ahead(self) -> list[Execution]:
        """Batches in engine processes that the event loop has sent, not a worker thread."""
        return [] if self._pipes is None else self._pipes.executing()

    def _thread_ended(self, _: None) -> None:
        self._ended_threads += 1

    # -- the end -------------------------------------------------------------------------------------------------------

    def refuse_runs(self) -> None:
        """Accept no more runs."""
        self.closing = self._dispatcher.closing = True

    def abandon(self) -> None:
        """Fail waiting runs and stop running ones."""
        self._expiry.stop()
        refused = Overloaded(SHUTTING_DOWN)
        for loaded, runs in [*self._dispatcher.abandon(), *(self._pipes.abandon() if self._pipes else [])]:
            self._end(runs, loaded, refused)
        for device in self.devices:
            for loaded, runs in device.abandon():
                loaded.come_back(len(runs))
                self._end(runs, loaded, refused)
        for slot in self._slots():
            stopped = slot.interrupt(time.monotonic(), 0.0, lambda _: refused)
            if stopped is not None:
                self._overdue(stopped)

    async def end_threads(self, mailbox: Mailbox, grace_s: float) -> bool:
        """Let all threads end, and wait for that; False if one does not end in time, or is a runaway."""
        self._threads_end = True
        threads = [*self.loader.threads, *self.devices.threads]
        self.loader.stop()
        self.devices.stop()
        ended = await mailbox.wait_until(lambda: self._ended_threads == len(threads), grace_s)
        self.watchdog.stop()
        if self._pipes is not None:
            self._pipes.close()
        if ended:
            for thread in threads:
                thread.join()
        return ended and not self.runaways.going_on
