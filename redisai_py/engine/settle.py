"""Counting an execution, then giving its runs their results. Thread: the event loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.engine.execution import Execution
from redisai_py.engine.run import Run, Value

__all__ = ["deliver", "settle"]


def settle(execution: Execution, error: BaseException | None, loop: asyncio.AbstractEventLoop) -> None:
    """Count, then resolve or fail every run, which drops its reference to the model. Only once per execution: at its
    end or its stop, whichever comes first.
    """
    if execution.settled:
        return
    execution.settled = True
    values = execution.values
    if error is not None or values is None:
        assert error is not None
        _count_failure(execution, error)
        for run in execution.runs:
            run.loaded = None
            run.inputs = ()
            deliver(loop, run.fail, error)
        return
    runs = execution.runs
    # Most executions have one run, for which a call of `zip` is a good part of what is done here.
    pairs = [(runs[0], values[0])] if len(runs) == 1 else list(zip(runs, values, strict=True))
    _count_success(execution, pairs)
    for run, outputs in pairs:
        try:  # `deliver`, inlined on the hot path
            run.resolve(outputs)
        except Exception as failure:
            _report(loop, failure, run)


def _count_success(execution: Execution, pairs: Sequence[tuple[Run, list[Value]]]) -> None:
    loaded = execution.loaded
    run_s = execution.run_s
    started = execution.started
    waits_s = []
    calls = counted_rows = 0
    for run, outputs in pairs:
        waits_s.append(started - run.since)
        run.loaded = None
        run.inputs = ()
        run.ran_s = run_s
        if run.counted:
            calls += 1
            first = outputs[0] if outputs else None  # `samples`, inlined
            counted_rows += first.shape[0] if first is not None and first.shape else 0
    loaded.stats.executed(execution.rows, run_s, waits_s, calls, counted_rows)


def _count_failure(execution: Execution, error: BaseException) -> None:
    calls = 0
    for run in execution.runs:
        if run.counted:
            calls += 1
        run.ran_s = execution.run_s
    if calls:
        execution.loaded.stats.failed(error, calls)


def deliver(loop: asyncio.AbstractEventLoop, give: Callable[[Any], None], outcome: Any) -> None:
    """Resolve or fail a run; a waiter's own failure must not keep the others from their results."""
    try:
        give(outcome)
    except Exception as error:
        _report(loop, error, give)


def _report(loop: asyncio.AbstractEventLoop, error: Exception, asked: Any) -> None:
    """Pass the failure to the loop's exception handler; `asked` leads to the waiter."""
    loop.call_exception_handler({"message": "a run's waiter failed", "exception": error, "asked": asked})
