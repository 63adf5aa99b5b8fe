"""The engine's reports to its owner, as values."""

from __future__ import annotations

from dataclasses import dataclass

from redisai_py.engine.run import LoadedModel
from redisai_py.model import Model

__all__ = ["Executed", "GivenUp"]


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
