"""What the engine reports of itself to whoever owns it, as values."""

from __future__ import annotations

from dataclasses import dataclass

from redisai_py.engine.run import LoadedModel
from redisai_py.model import Model

__all__ = ["Executed", "GivenUp"]


@dataclass(frozen=True, slots=True)
class Executed:
    """One call of a framework. runs: how many it was for.   run_s: seconds that it took.   queued_s: that the first of
    them had waited.
    """

    loaded: LoadedModel
    runs: int
    run_s: float
    queued_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """One run or load that was given up. going_on: how many go on now."""

    model: Model
    loading: bool
    going_on: int
