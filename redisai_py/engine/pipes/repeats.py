"""Runs that were sent ahead and must be executed once more, by worker threads. Thread: the event loop's."""

from __future__ import annotations

from redisai_py.engine.execution import Execution
from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.errors import MemoryLimitExceeded

__all__ = ["forget_dropped", "may_repeat", "repeat"]


def forget_dropped(execution: Execution) -> bool:
    """Leave out the runs that nobody waits for any more; False if none is left."""
    kept = [place for place, run in enumerate(execution.runs) if not run.dropped]
    if execution.values is not None:
        execution.values = [execution.values[place] for place in kept]
    execution.runs = [execution.runs[place] for place in kept]
    return bool(kept)


def may_repeat(execution: Execution, process: EngineProcess) -> bool:
    """Whether threads should execute what has failed again: several runs, to find out which of them fails, or one that
    the process refused memory which another model may have taken; then the model leaves that process.
    """
    if len(execution.runs) > 1:
        return True
    session, error = execution.loaded.session, execution.error
    if not isinstance(error, MemoryLimitExceeded) or not isinstance(session, RemoteSession):
        return False
    try:
        session.refused_memory(error, process)
    except MemoryLimitExceeded as final:
        execution.error = final.with_traceback(None)
        return False
    return True


def repeat(execution: Execution, singly: bool) -> None:
    """Have worker threads execute the runs once more."""
    for run in execution.runs:
        run.started = False
        if singly:
            run.rows = 0
    execution.loaded.hand_over([run for run in execution.runs if not run.dropped])
