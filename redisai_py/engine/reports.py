"""What the engine reports to its owner."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from redisai_py.engine.run import LoadedModel
from redisai_py.model import Model

__all__ = ["Counters", "Executed", "GivenUp"]


@dataclass(frozen=True, slots=True)
class Executed:
    """One call of a framework. runs: number of runs in it.   run_s: its duration in seconds.   queued_s: waiting time
    of the first of them.
    """

    loaded: LoadedModel
    runs: int
    run_s: float
    queued_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A run or load that was abandoned. going_on: number of abandoned ones that still run."""

    model: Model
    loading: bool
    going_on: int


@dataclass(slots=True)
class Counters:
    """What an engine has counted since its start, over all models. Thread: the event loop's.

    executions, loads: by backend, number of runs and loads of the framework.
    refused: runs that found their queue full.   timed_out: runs whose TIMEOUT passed in it.
    """

    executions: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    timed_out: int = 0
