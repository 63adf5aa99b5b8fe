"""ROWS: one entry per row. Unknown rows run together as one smaller batch; all rows are joined in order.

Only for kinds of input whose merged runs were found equal to single ones (docs/adr/0016). A request of one row and the
same row in a batch share an entry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redisai_py.ai.prediction_cache.lookup import Lookup, Request
from redisai_py.ai.prediction_cache.single_flight import FlightKey
from redisai_py.ai.prediction_cache.storing import PredictionStore
from redisai_py.commands.model_runs import CacheUse
from redisai_py.engine.run import LoadedModel, Value
from redisai_py.errors import QueueTimeout, WrongType
from redisai_py.predictions.identity import inputs_digest, rows_of
from redisai_py.tensor import DType, Tensor

__all__ = ["RowLookup", "rows_apart"]

_MOST_ROWS = 1024


def rows_apart(loaded: LoadedModel, inputs: Sequence[Tensor]) -> int:
    """The number of rows of a request, 0 if they must not be split."""
    rows = loaded.proved_rows(inputs)
    if not 1 < rows <= _MOST_ROWS:
        return 0
    return 0 if any(tensor.dtype is DType.STRING for tensor in inputs) else rows


class RowLookup(Lookup):
    """A request of several rows. It owns the flights of some rows and waits for those of others."""

    __slots__ = ("_alone", "_awaited", "_known", "_order", "_owned", "_parts", "_ran_some", "_rows", "_working")

    def __init__(self, predictions: PredictionStore, request: Request, rows: int) -> None:
        super().__init__(predictions, request)
        self._rows = rows
        self._order: list[bytes] = []
        """The key of each row."""
        self._parts: dict[bytes, Sequence[Tensor]] = {}
        """The inputs of each key; equal rows share one."""
        self._known: dict[bytes, Sequence[Tensor]] = {}
        self._owned: set[bytes] = set()
        self._awaited: set[bytes] = set()
        """Keys whose flights this request owns, and keys whose flights others own."""
        self._alone: set[bytes] = set()
        """Keys that run without a flight, because another request's run of them failed."""
        self._working = False
        """Whether it is looking up or running."""
        self._ran_some = False

    def start(self) -> None:
        """Look up, and run what is missing."""
        parts = rows_of(self._tensors, self._rows)
        assert parts is not None  # checked by `rows_apart`
        self._order = [self._names.key(inputs_digest(part)) for part in parts]
        self._parts = dict(zip(self._order, parts, strict=True))
        if self._use is CacheUse.REFRESH:
            self._run(list(self._parts))
            return
        local, owner = self._predictions.local, self._cached.access.owner
        now = time.monotonic()
        for key in self._parts:
            entry = local.get(owner, key, now)
            if entry is not None:
                self._known[key] = entry.outputs
        if self._use is not CacheUse.ONLY:
            self._claim()
        if missing := self._missing:
            self._working = True
            self._ask(partial(self._cached.access.predictions.fetch_many, missing))
        else:
            self._looked()
            self._go_on()

    @property
    def _missing(self) -> list[bytes]:
        """Rows that are unknown and in no other flight."""
        return [key for key in self._parts if key not in self._known and key not in self._awaited]

    def _flight_key(self, key: bytes) -> FlightKey:
        return self._cached.access.identity.database, key

    def _claim(self) -> None:
        """Begin the flights of missing rows, or wait for existing ones."""
        for key in self._missing:
            if key not in self._owned and key not in self._alone:
                owns = self._predictions.flights.take(self._flight_key(key), self)
                (self._owned if owns else self._awaited).add(key)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _found(self, found: Any) -> None:
        record, owner = self._cached.record, self._cached.access.owner
        now = time.monotonic()
        for key, (value, life_s) in zip(self._missing, found, strict=True):
            if value is None:
                continue
            try:
                outputs = record.decode(key, value)
            except WrongType:
                record.counts["damaged"] += 1
                continue
            self._known[key] = outputs
            self._predictions.local.put(owner, key, outputs, now, life_s)
        self._missed()

    def _missed(self) -> None:
        self._looked()
        self._unasked()

    def _unasked(self) -> None:
        if self._missing and self._use is CacheUse.ONLY:
            self._end(self._miss())
            return
        self._working = False
        self._complete()
        self._go_on()

    def _looked(self) -> None:
        """Count the rows that were found and those that were not."""
        record, missing = self._cached.record, len(self._missing)
        seconds = time.monotonic() - self._began
        record.counts["hits"] += self._rows - missing - len(self._awaited)
        record.counts["misses"] += missing
        record.lookups.extend((seconds,))
        record.cost_benefit.looked(seconds, 1 - missing / self._rows)

    # -- flights -------------------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        """Pass known rows to their waiters."""
        for key in [key for key in self._owned if key in self._known]:
            self._owned.discard(key)
            self._predictions.flights.complete(self._flight_key(key), self._known[key])

    def _fail_flights(self, error: BaseException | None = None) -> None:
        """End this request's flights."""
        owned, self._owned = self._owned, set()
        for key in owned:
            self._predictions.flights.fail(self._flight_key(key), error)

    def completed(self, key: bytes, outputs: Sequence[Value]) -> None:
        """See `Waiter`."""
        self._awaited.discard(key)
        tensors = [output for output in outputs if type(output) is Tensor]
        if len(tensors) == len(outputs):
            self._known[key] = tensors
            self._cached.record.counts["joined"] += 1
        else:
            self._alone.add(key)
        self._go_on()

    def failed(self, key: bytes, together: bool) -> None:
        """See `Waiter`."""
        self._awaited.discard(key)
        if not together:
            self._alone.add(key)
        self._go_on()

    def _go_on(self) -> None:
        """Run what is missing, or answer, or wait for others."""
        if self.done or self._working:
            return
        self._claim()
        if missing := self._missing:
            self._run(missing)
        elif not self._awaited:
            self._give()
        elif self._timeout_ms is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_ms / 1000, self._end, QueueTimeout())

    def _is_awaited(self) -> bool:
        flights = self._predictions.flights
        return any(flights.is_awaited(self._flight_key(key)) for key in self._owned)

    def _end(self, error: BaseException) -> None:
        for key in self._awaited:
            self._predictions.flights.leave(self._flight_key(key), self)
        self._awaited.clear()
        self._cancel_timer()
        self.fail(error)
        self._fail_flights(error)

    # -- running -------------------------------------------------------------------------------------------------------

    def _run(self, missing: list[bytes]) -> None:
        """Run the missing rows together."""
        self._working = True
        inputs = self._tensors if len(missing) == self._rows else _joined([self._parts[key] for key in missing])
        counted = self.counted and not self._ran_some
        self._ran_some = True
        self._run_model(inputs, partial(self._keep, missing), counted)

    def _keep(self, missing: list[bytes], outputs: list[Value]) -> None:
        """Take the outputs of a run of the missing rows, and store them."""
        tensors = [output for output in outputs if type(output) is Tensor]
        rows = rows_of(tensors, len(missing)) if len(tensors) == len(outputs) else None
        if rows is None:  # the outputs are not rows: answer the request, and do not store them
            self._fail_flights()
            if len(missing) == self._rows:
                self.resolve(outputs)
            else:
                self._run_all()
            return
        found = dict(zip(missing, rows, strict=True))
        self._known |= found
        insert = self._predictions.keep(self._cached, self._names, list(found.items()))
        self._working = False
        self._complete()
        self._go_on()
        if insert is not None:
            self._predictions.send(insert)

    def _run_all(self) -> None:
        """The rows cannot be joined: run the original request."""
        self._run_model(self._tensors, self.resolve, self.counted and not self._ran_some)

    def _agree(self) -> bool:
        """Whether the rows can be joined: a model may return rows of other shapes another time."""
        kinds = {tuple((part.dtype, part.shape[1:]) for part in row) for row in self._known.values()}
        return len(kinds) == 1

    def _give(self) -> None:
        """All rows are known."""
        self._cancel_timer()
        if not self._agree():
            self._run_all()
            return
        outputs: list[Value] = list(_joined([self._known[key] for key in self._order]))
        if not self._ran_some:
            self.ran_s = 0.0
            if self.counted:
                self._predictions.called(self._cached, outputs)
        self.resolve(outputs)


def _joined(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Tensors whose rows these are, in order."""
    columns = zip(*rows, strict=True)
    return [
        Tensor(column[0].dtype, (len(rows), *column[0].shape[1:]), b"".join([part.data for part in column]))
        for column in columns
    ]
