"""Log lines about models and clients, for operators: loads, failures, slow runs, refused clients.

One event per line, with the same fields everywhere: `model` (or `script`), `db`, `backend`, `device`, `ms`. Events that
clients can cause at any rate are throttled: at most one per kind and key in ten seconds; the next line says how many
were left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from redisai_py.engine.reports import Executed, GivenUp
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import Overloaded
from redisai_py.model import Model
from redisai_py.ops.keymap import KeyMap, ProgramKey

__all__ = ["EventLog", "Throttle"]

INTERVAL_S = 10.0
_NAMES = 1000

logger = structlog.get_logger()


class Throttle:
    """Lets one event of a name through per interval, and counts the others.

    Args: clock: monotonic seconds.   names: number of names to remember; the least recent are dropped first.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic, names: int = _NAMES) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._names = names
        # name -> time of the last event let through, and number of events left out since
        self._last: dict[Any, tuple[float, int]] = {}

    def passes(self, name: Any) -> int | None:
        """None to suppress the event, else the number of events suppressed since the last one let through."""
        now = self._clock()
        since, silent = self._last.pop(name, (-self._interval_s, 0))
        if now - since < self._interval_s:
            self._last[name] = (since, silent + 1)
            return None
        self._last[name] = (now, 0)
        if len(self._last) > self._names:
            del self._last[next(iter(self._last))]
        return silent


class EventLog:
    """Writes the lines.

    Args: keys: names for the engine's ids.   slow_run_ms: report runs that take at least this long, 0 none.
    """

    def __init__(self, keys: KeyMap, slow_run_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self.slow_run_s = slow_run_ms / 1000 if slow_run_ms else float("inf")
        self._throttle = Throttle(INTERVAL_S, clock)

    def _warn(self, event: str, name: object, fields: dict[str, Any]) -> None:
        silent = self._throttle.passes((event, name))
        if silent is None:
            return
        if silent:
            fields["left_out"] = silent
        logger.warning(event, **fields)

    # -- models --------------------------------------------------------------------------------------------------------

    def loaded(self, program_key: ProgramKey, loaded: LoadedModel, seconds: float) -> None:
        """A model is in memory, ready to run."""
        fields = _fields(program_key, loaded.model)
        if loaded.not_merged:
            fields["not_merged"] = loaded.not_merged
        logger.info("model loaded", **fields, ms=_ms(seconds), bytes=loaded.nbytes)

    def load_failed(self, program_key: ProgramKey, backend: str, device: str, error: BaseException) -> None:
        """A framework refused a model."""
        fields = {"model": program_key.name, "db": program_key.database, "backend": backend, "device": device}
        self._warn("model not loaded", program_key, {**fields, "error": str(error)})

    def unloaded(self, program_key: ProgramKey, why: str) -> None:
        """A model was unloaded because its key was deleted or replaced."""
        logger.info("model unloaded", model=program_key.name, db=program_key.database, why=why)

    def evicted(self, loaded: LoadedModel) -> None:
        """A model was unloaded because of the memory limit."""
        fields = _fields(self._keys.key_of(loaded.id), loaded.model)
        logger.info("model unloaded", **fields, why="others need its memory")

    def ended_merging(self, loaded: LoadedModel) -> None:
        """A model's runs are no longer merged, whatever its BATCHSIZE."""
        fields = _fields(self._keys.key_of(loaded.id), loaded.model)
        logger.warning("model not merged", **fields, why=loaded.not_merged)

    def executed(self, executed: Executed, error: BaseException | None) -> None:
        """The engine reports a failed or slow execution. This precedes the clients' replies."""
        if isinstance(error, Overloaded):  # the server is stopping, and logs that itself
            return
        loaded = executed.loaded
        fields = _fields(self._keys.key_of(loaded.id), loaded.model)
        if executed.run_s:
            fields["ms"] = _ms(executed.run_s)
        if executed.runs > 1:
            fields["runs"] = executed.runs
        if error is not None:
            self._warn("run failed", loaded.id, {**fields, "error": str(error)})
            return
        self._warn("slow run", loaded.id, {**fields, "queued_ms": _ms(executed.queued_s)})

    def given_up(self, given_up: GivenUp) -> None:
        """A run or a load takes too long and cannot be stopped."""
        program_key = self._keys.key_of(given_up.model.identity)
        fields = _fields(program_key, given_up.model)
        event = "load given up" if given_up.loading else "run given up"
        logger.warning(event, **fields, going_on=given_up.going_on)

    # -- scripts -------------------------------------------------------------------------------------------------------

    def script_failed(self, program_key: ProgramKey, function: str, device: str, error: BaseException) -> None:
        """A script's run failed."""
        self._warn("script failed", program_key, {**_script_fields(program_key, function, device), "error": str(error)})

    def script_ran(self, program_key: ProgramKey, function: str, device: str, run_s: float, queued_s: float) -> None:
        """A script's run succeeded; reported if it was slow."""
        if run_s >= self.slow_run_s:
            fields = _script_fields(program_key, function, device)
            self._warn("slow script", program_key, {**fields, "ms": _ms(run_s), "queued_ms": _ms(queued_s)})

    # -- clients -------------------------------------------------------------------------------------------------------

    def client_refused(self, why: str, **fields: Any) -> None:
        """The server has refused or closed a connection."""
        self._warn("client refused", why, {"why": why, **fields})


def _fields(program_key: ProgramKey | None, model: Model) -> dict[str, Any]:
    named: dict[str, Any] = (
        {"id": model.id} if program_key is None else {"model": program_key.name, "db": program_key.database}
    )
    return {**named, "backend": model.backend, "device": model.device.text}


def _script_fields(program_key: ProgramKey, function: str, device: str) -> dict[str, Any]:
    return {"script": program_key.name, "db": program_key.database, "function": function, "device": device}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
