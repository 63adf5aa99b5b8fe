"""The record of a run in Redis: parameters, progress and metrics. Does not need PyTorch.

    run = Run.current()                         # of `redisai train run`; Run("redis://...", "clicks-1") elsewhere
    run.begin(steps=1000, lr=0.1)
    run.report(step, loss=0.31)

`HGETALL ai:summary:run:NAME` is the summary in plain text: `state`, `step`, `steps`, `param.lr`, `metric.loss`,
`checkpoint`, ... The stream `ai:series:run:NAME` has the metrics of each reported step. If writing either fails, the
error is logged and training goes on.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import redis

from redisai_py.artifacts import Invalid, Missing, Store
from redisai_py.artifacts.connection import AnyClient, scanned
from redisai_py.artifacts.names import check_name, is_name
from redisai_py.training.link import open_store
from redisai_py.training.ranks import rank, ranks

__all__ = ["PREFIX_VARIABLE", "RUN_VARIABLE", "URL_VARIABLE", "Run", "run_names"]

URL_VARIABLE = "REDISAI_URL"
RUN_VARIABLE = "REDISAI_RUN"
PREFIX_VARIABLE = "REDISAI_KEY_PREFIX"

_SERIES_LENGTH = 10_000
_logger = logging.getLogger("redisai_py.training")

Value = str | int | float | bool


class Run:
    """One run's record. Only the process with rank 0 writes.

    client: a redis-py client, or a URL.   Raises: Invalid: not a valid name of a run.
    """

    def __init__(self, client: AnyClient, name: str, prefix: str = "ai:") -> None:
        self.name = check_name(name)
        self._store: Store = open_store(client, prefix, patient=False)
        self._summary = self._store.keys.summary(name)
        self._series = self._store.keys.series(name)
        self._failing = False

    @classmethod
    def current(cls) -> Self:
        """The run named by REDISAI_URL and REDISAI_RUN, which `redisai train run` sets. Raises: Invalid: not set."""
        url, name = os.environ.get(URL_VARIABLE), os.environ.get(RUN_VARIABLE)
        if not url or not name:
            raise Invalid(f"{URL_VARIABLE} and {RUN_VARIABLE} must name the run: use `redisai train run`, or set both")
        return cls(url, name, os.environ.get(PREFIX_VARIABLE, "ai:"))

    # -- writing -------------------------------------------------------------------------------------------------------

    def begin(self, steps: int | None = None, **parameters: Value) -> None:
        """Record the start.   steps: planned number.   parameters: shown in the summary."""
        fields: dict[str, Value] = {f"param.{name}": value for name, value in parameters.items()}
        if steps is not None:
            fields["steps"] = steps
        self.note(state="running", started=round(time.time(), 3), world=ranks(), host=socket.gethostname(), **fields)

    def report(self, step: int, **metrics: float) -> None:
        """Record progress. metrics: floating-point numbers, or tensors of one element."""
        if rank():
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        fields = {"step": step, "updated": round(time.time(), 3)} | {f"metric.{n}": v for n, v in numbers.items()}
        with self._undisturbed(), self._store.redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(self._summary, mapping=fields)  # type: ignore[arg-type]
            if numbers:
                entry: Any = {"step": step, **numbers}
                pipeline.xadd(self._series, entry, maxlen=_SERIES_LENGTH, approximate=True)
            pipeline.execute()

    def end(self, state: str = "finished", **more: Value) -> None:
        """Record the end: finished, failed or stopped."""
        self.note(state=state, ended=round(time.time(), 3), **more)

    def note(self, **fields: Value) -> None:
        """Set fields of the summary."""
        if rank():
            return
        with self._undisturbed():
            texts: Any = {name: str(value) for name, value in fields.items()} | {"updated": str(round(time.time(), 3))}
            self._store.redis.hset(self._summary, mapping=texts)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Log errors of the record, the first of a series, and suppress them."""
        try:
            yield
        except redis.RedisError as error:
            if not self._failing:
                _logger.warning("the summary of run %s could not be written: %s", self.name, error)
            self._failing = True
        else:
            self._failing = False

    # -- reading -------------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """The summary. Raises: Missing: no such run.   redis.RedisError."""
        found: Any = self._store.redis.hgetall(self._summary)
        if not found:
            raise Missing(f"there is no run {self.name}")
        return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in found.items()}

    def series(self, metric: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, as reported; the last value counts for a repeated step."""
        entries: Any = self._store.redis.xrange(self._series)
        found: dict[int, float] = {}
        for _, fields in entries:
            with_step = _numbers(fields)
            if "step" in with_step and metric in with_step:
                found[int(with_step["step"])] = with_step[metric]
        return sorted(found.items())


def _numbers(fields: Mapping[bytes, bytes]) -> dict[str, float]:
    found = {}
    for name, value in fields.items():
        try:
            number = float(value)
        except ValueError:
            continue
        if name != b"step" or (math.isfinite(number) and number == int(number)):
            found[name.decode("utf-8", "replace")] = number
    return found


def run_names(client: AnyClient, prefix: str = "ai:") -> Iterator[str]:
    """The runs that have a summary, sorted. O(keys of the database), in steps that block no other client."""
    store = open_store(client, prefix, patient=False)
    yield from sorted({name for _, name in scanned(store.redis, f"{prefix}summary:run:", "hash") if is_name(name)})
