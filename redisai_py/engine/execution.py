"""Executing one batch: merge, run under the watchdog, split; and run again singly if that fails. The first merged runs
of a model are compared with single ones (`proving`).

A `Slot` executes one batch at a time: every worker thread has one, the event loop has one, and a loader has one for its
warm-up. The watchdog looks at the slots from its own thread. It may stop a run only under the slot's guard, and the
slot's owner takes that guard to end the run, so a late stop never hits the next run.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from redisai_py.backend import Array, framework_error, runs_concurrently
from redisai_py.engine.isolation.inline_runs import WouldBlock
from redisai_py.engine.isolation.turns import began_at
from redisai_py.engine.merging import BatchSizeMismatch, Value, merge, split, to_array, to_value
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.reports import Executed
from redisai_py.engine.run import Run
from redisai_py.errors import BackendError, RedisAIError
from redisai_py.tensor import Tensor

__all__ = ["Execution", "Slot", "Watch", "attempt", "end_merging", "execute", "execute_inline"]

_SINGLE_RUNS = 4
"""Merged runs take less time per request than single ones, unless cores are scarce or others use them."""

logger = structlog.get_logger()


@dataclass(slots=True)
class Stop:
    """An execution was stopped from outside.

    error: of its runs, whatever the framework says.   at: when, monotonic seconds.
    repeats: it took too long as a whole, so its runs are executed again singly.
    reported: the watchdog has reported that it continues all the same.
    given_up: it was abandoned (event loop's thread).
    """

    error: RedisAIError
    at: float
    repeats: bool
    reported: bool = False
    given_up: bool = False


@dataclass(slots=True, eq=False)
class Execution:
    """One call of `Session.run` for one or more runs of a model, or for a request run inline, which has no Run.

    rows: dimension 0 of the merged inputs; 0 for a run that cannot be merged.
    started: monotonic seconds.   run_s: seconds in the framework.   cpu_s: CPU time of this thread in them.
    error: the failure of all, or None.
    values: per run its outputs, None until it ended or if it failed.
    stop: None, or why and how it was stopped from outside.
    ended_merging: why its model is no longer merged, if that was found here.
    settled: the runs have their results (event loop's thread).
    """

    # One is created per run, so rarely used fields are in `Stop`.
    loaded: QueuedModel
    runs: list[Run]
    rows: int
    started: float = 0.0
    run_s: float = 0.0
    cpu_s: float = 0.0
    values: list[list[Value]] | None = None
    error: BaseException | None = None
    stop: Stop | None = None
    ended_merging: str = ""
    settled: bool = False

    @property
    def requests(self) -> int:
        """Number of requests it serves; it may take the time of each."""
        return len(self.runs)

    def extra_s(self, limit_s: float) -> float:
        """Time that a merged run may take beyond `limit_s`, the limit of one run: the time of the other members, as
        measured for single runs when merging was proved. Each member could take up to the limit, but one that never
        ends must not block the device for the sum of all limits.
        """
        others = self.requests - 1
        return others * min(limit_s, _SINGLE_RUNS * self.loaded.proof.single_s) if others > 0 else 0.0

    def report(self) -> Executed:
        """Describe it for the engine's owner."""
        # An inline execution has no Run, and was in no queue.
        since = min((run.since for run in self.runs), default=self.started)
        return Executed(self.loaded, len(self.runs), self.run_s, self.started - since)


class Watch(Protocol):
    """The watchdog, as a slot sees it. Thread: any."""

    awake: bool
    """Whether it will look at the slots in time for any execution that starts now."""

    def wake(self) -> None:
        """Look at the slots."""


class Slot:
    """Executes one batch at a time. watchdog: stops what takes too long."""

    __slots__ = ("_watchdog", "behind", "current", "guard", "lent", "retired", "thread", "thread_id")

    def __init__(self, watchdog: Watch) -> None:
        self._watchdog = watchdog
        self.guard = threading.Lock()
        self.current: Execution | None = None
        self.behind: Sequence[Run] = ()
        """Runs of the same batch that wait for the current execution."""
        self.retired: Execution | None = None
        """The execution it was abandoned to: another slot replaces it, and its thread ends with this execution."""
        self.lent = False
        """Its thread already has a successor, and ends with its batch."""
        self.thread: threading.Thread | None = None
        self.thread_id: int | None = None
        """The worker's thread id. None if no other thread can be in its session: on the event loop, in a warm-up."""

    def begin(self, execution: Execution) -> None:
        """The execution is under way, and the watchdog sees it."""
        self.current = execution
        if not self._watchdog.awake:
            self._watchdog.wake()

    def run_session(self, execution: Execution, inputs: Sequence[Array], keep_on_device: bool) -> list[Array | None]:
        """Call the framework under the watchdog. Raises its exceptions."""
        policy = execution.loaded.inline
        # A thread may wait for the GIL, so only its CPU time shows that a run was slow. The event loop holds the GIL.
        measures_cpu = policy.doubtful if self.thread_id is None else policy.enabled
        started = execution.started = time.monotonic()
        cpu_started = time.thread_time() if measures_cpu else 0.0
        self.begin(execution)
        try:
            return execution.loaded.session.run(inputs, keep_on_device)
        finally:
            if measures_cpu:
                execution.cpu_s = time.thread_time() - cpu_started
            execution.run_s = time.monotonic() - started
            with self.guard:
                self.current = None

    def interrupt(self, now: float, limit_s: float, error: Callable[[bool], RedisAIError]) -> Execution | None:
        """Stop the current execution if it has taken `limit_s` per run or longer. Returns: it, or None. Thread: any.

        Args: now: monotonic seconds.   limit_s: of one run; 0 stops any execution, for good.
              error: makes the error of its runs; its argument says whether the framework stops, or keeps computing in
              vain.
        """
        with self.guard:
            execution = self.current
            if execution is None or execution.stop is not None:
                return None
            if now < execution.started + limit_s + execution.extra_s(limit_s):
                return None
            if limit_s:
                session = execution.loaded.session
                execution.started = began_at(session, self.thread_id, execution.started, now, limit_s)
                if now < execution.started + limit_s + execution.extra_s(limit_s):
                    return None
            stops = _terminate(execution.loaded, self.thread_id)
            execution.stop = Stop(error(stops), now, stops and limit_s > 0 and len(execution.runs) > 1)
            return execution

    def retire(self, execution: Execution) -> bool:
        """Abandon the slot to an execution that does not end; False if it has ended. Thread: any."""
        with self.guard:
            self.retired = execution if self.current is execution else None
            return self.retired is not None


def _terminate(loaded: QueuedModel, thread_id: int | None) -> bool:
    """Stop the run on that thread; False if the framework does not stop."""
    session = loaded.session
    try:
        return session.terminate(thread_id) if runs_concurrently(session) else session.terminate()
    except BaseException:  # the watchdog calls this, and must go on watching all other runs
        logger.exception("a plugin failed", backend=loaded.model.backend)
        return False


def execute(slot: Slot, loaded: QueuedModel, runs: list[Run], report: Callable[[Execution], object]) -> None:
    """Execute a batch and report one Execution, or one per member if it failed as a whole and was run again singly.

    So a bad request fails alone. A stopped batch is run again only if the framework stops; otherwise its members
    already have their error.
    """
    rows = runs[0].rows if len(runs) == 1 else sum([run.rows for run in runs])
    execution = Execution(loaded, runs, rows)
    attempt(slot, execution)
    if execution.error is None or not _is_repeated(slot, execution):
        report(execution)
    else:
        _execute_singly(slot, execution, report)


def _is_repeated(slot: Slot, failed: Execution) -> bool:
    """Whether to run the members of a failed batch again singly."""
    if len(failed.runs) == 1 or slot.retired:  # nobody waits for a retired slot
        return False
    return failed.stop is None or failed.stop.repeats


def execute_inline(slot: Slot, loaded: QueuedModel, rows: int, inputs: Sequence[Tensor]) -> Execution:
    """Execute one request that has no Run yet. Without values if it failed or was stopped: it then runs as a Run, which
    gets the error.
    """
    execution = Execution(loaded, [], rows)
    try:
        arrays = [tensor.numpy() if tensor.array is None else tensor.array for tensor in inputs]
        outputs = slot.run_session(execution, arrays, False)
        values = [[to_value(output) for output in outputs]]
    except BaseException:  # of any kind: the following run gets the same error, with a text for the client
        return execution
    if execution.stop is None and len(outputs) == len(loaded.outputs):
        execution.values = values
    return execution


def _execute_singly(slot: Slot, execution: Execution, report: Callable[[Execution], object]) -> None:
    """Execute the members of a failed merged run; if merging was the cause, stop merging."""
    loaded = execution.loaded
    all_well = True
    for place, run in enumerate(execution.runs, 1):
        single = Execution(loaded, [run], run.rows)
        slot.behind = execution.runs[place:]
        attempt(slot, single)
        all_well = all_well and single.error is None
        if run is execution.runs[-1] and (all_well or isinstance(execution.error, BatchSizeMismatch)):
            # If a member fails alone too, it was the cause; a client must not be able to end merging for others.
            end_merging(single, str(execution.error))
        report(single)
        if slot.retired is not None:  # the runs after it already have their error
            return


def end_merging(execution: Execution, reason: str) -> None:
    """Stop merging the model's runs; this execution's report says so."""
    why = f"merged runs differ from single ones: {reason.removeprefix('ERR ')}"
    if execution.loaded.end_merging(why):  # otherwise another thread has found it, too
        execution.ended_merging = why


def attempt(slot: Slot, execution: Execution) -> None:
    """Run, and set the execution's values or error. Raises: WouldBlock, on the event loop; nothing else."""
    runs = execution.runs
    loaded = execution.loaded
    failure: RedisAIError
    try:
        if len(runs) == 1:
            run = runs[0]
            arrays = [to_array(value, loaded.model.device) for value in run.inputs]
            outputs = slot.run_session(execution, arrays, run.keep_on_device)
            values = [[to_value(output) for output in outputs]]
        else:
            sizes = [run.rows for run in runs]
            rows = execution.rows
            arrays = merge([run.inputs for run in runs], rows)  # type: ignore[misc]  # rows > 0: no device arrays
            outputs = slot.run_session(execution, arrays, False)
            values = split(outputs, sizes)
        if len(outputs) != len(loaded.outputs):
            raise BackendError("ERR Model did not generate the expected number of outputs")
        if execution.stop is None:
            execution.values = values
            return
        failure = execution.stop.error
    except WouldBlock:
        raise
    except RedisAIError as error:
        failure = error
    except BaseException as error:
        # A plugin's own failure, even of a kind that would end the thread and leave its device without one (SystemExit,
        # the panic of a Rust extension): the client gets the error, the log has the traceback. As text, because a
        # traceback's frames refer to the model, and a log record that keeps them would keep the model loaded.
        logger.warning("a plugin failed", backend=loaded.model.backend, exception=traceback.format_exc())
        failure = framework_error(error, "ERR ")
    # Without the traceback, and without the framework's own exception, which has one: its frames refer to the
    # execution, and such a reference cycle would keep the model loaded.
    if execution.stop is not None:
        failure = execution.stop.error
    failure.__cause__ = failure.__context__ = None
    execution.error = failure.with_traceback(None)
