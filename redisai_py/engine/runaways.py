"""Runs and loads that exceed their time limit and cannot be stopped.

DESIGN. A thread cannot be killed, so it is abandoned: another takes its place, and it ends with its work, if ever. A
run is abandoned two seconds after it was told to stop, and its model with it, because its session is never free again.
A load has no time limit; after a minute it is abandoned so that other loads can proceed. Abandoned work still uses a
core, so the engine's owner gets their number. Where loads happen in engine processes, which can be killed, none is a
runaway: a long one only gets another loader thread to its side, soon. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from redisai_py.engine.execution import Execution
from redisai_py.engine.loader import Loader
from redisai_py.engine.reports import GivenUp
from redisai_py.model import Model

__all__ = ["STUCK", "Runaways"]

STUCK = "ERR a run of the model passed MODEL_EXECUTION_TIMEOUT and does not stop; the next command reloads the model"
LOAD_PATIENCE_S = 60.0
_LOAD_ELSEWHERE_S = 1.0
_MOST_LOADS_ELSEWHERE = 32


class Runaways:
    """The runaways.

    Args: given_up: called with each.   isolated: loads happen in engine processes.
    load_patience_s: seconds after which a load is abandoned.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loader: Loader,
        given_up: Callable[[GivenUp], object],
        isolated: bool = False,
        load_patience_s: float = LOAD_PATIENCE_S,
    ) -> None:
        self._loop = loop
        self._loader = loader
        self._given_up = given_up
        self._isolated = isolated
        self._load_patience_s = _LOAD_ELSEWHERE_S if isolated else load_patience_s
        self._executions: set[Execution] = set()
        self._loads: dict[str, tuple[threading.Thread, asyncio.TimerHandle]] = {}
        self._long_loads: set[str] = set()

    @property
    def going_on(self) -> int:
        """Their number."""
        return len(self._executions) + len(self._long_loads)

    def add(self, execution: Execution) -> None:
        """Its thread was abandoned."""
        self._executions.add(execution)
        self._given_up(GivenUp(execution.loaded.model, False, self.going_on))

    def ended(self, execution: Execution) -> None:
        """It has ended after all."""
        self._executions.discard(execution)

    def load_began(self, began: tuple[Model, threading.Thread]) -> None:
        """A loader thread starts loading a model."""
        model, thread = began
        timer = self._loop.call_later(self._load_patience_s, self._look_at_load, replace(model, blob=b""))
        self._loads[model.identity] = thread, timer

    def load_ended(self, identity: str) -> None:
        """The model was loaded or refused."""
        load = self._loads.pop(identity, None)
        if load is not None:
            load[1].cancel()
        self._long_loads.discard(identity)

    def _look_at_load(self, model: Model) -> None:
        thread, _ = self._loads[model.identity]
        if self._isolated and len(self._loads) >= _MOST_LOADS_ELSEWHERE:
            return
        with suppress(RuntimeError):  # no more threads available: fewer remain then
            self._loader.replace(thread)
        if self._isolated:
            return
        self._long_loads.add(model.identity)
        self._given_up(GivenUp(model, True, self.going_on))
