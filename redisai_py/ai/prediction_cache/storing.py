"""Storing predictions: the server's local cache, inserts into Redis, and early refreshes.

A request is answered first; its outputs are stored afterwards.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from redisai_py.ai.prediction_cache.records import CachedModel, CacheRecord
from redisai_py.ai.prediction_cache.single_flight import FlightKey, SingleFlight
from redisai_py.engine.engine import Engine
from redisai_py.engine.run import Value
from redisai_py.engine.stats import samples
from redisai_py.errors import RedisAIError, UpstreamError
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.predictions.budget import Budget
from redisai_py.predictions.entries import encode_entry
from redisai_py.predictions.identity import Names
from redisai_py.predictions.known_inputs import KnownInputs
from redisai_py.predictions.local import LocalCache, LocalEntry
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.tensor import Buffer, Tensor
from redisai_py.upstream.access import AccessTable

__all__ = ["Insert", "PredictionStore"]

Insert = Callable[[], Coroutine[Any, Any, bool]]
_MOST_INSERTING = 256
"""Limit of pending inserts, so that an unresponsive Redis does not fill the memory."""
_AHEAD = 0.01
_MOST_AHEAD_S = 1.0
_NEWER_S = 0.1
"""An entry whose lifetime is longer by this than that of the known one is a new entry."""


class PredictionStore:
    """What all predictions of one server share. Thread: the event loop's.

    Args: engine: runs what no prediction answers.
          prediction_cache_bytes: size of the local cache, half for predictions and half for inputs.
          chance: returns a random number from 0 up to 1.
    """

    def __init__(
        self,
        engine: Engine,
        accesses: AccessTable,
        prediction_cache_bytes: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.engine = engine
        self.accesses = accesses
        self.local = LocalCache(prediction_cache_bytes // 2)
        self.known_inputs = KnownInputs(prediction_cache_bytes // 2)
        self.flights = SingleFlight()
        self.refreshing = SingleFlight()
        """Runs ahead of an entry's end. A request waits for one only if the entry has expired."""
        self.chance = chance
        self._records: OrderedDict[tuple[int, bytes], CacheRecord] = OrderedDict()

    @staticmethod
    def called(cached: CachedModel, outputs: Sequence[Value]) -> None:
        """Count a call that needed no execution."""
        cached.loaded.count_call(samples(outputs))

    # -- storing -------------------------------------------------------------------------------------------------------

    def keep(self, cached: CachedModel, names: Names, items: Sequence[tuple[bytes, Sequence[Value]]]) -> Insert | None:
        """Store a run's outputs locally, immediately. Returns: the argument for `send`, which inserts them after the
        answer.

        Args: items: keys and outputs.
        """
        record, access = cached.record, cached.access
        now, wall_s = time.monotonic(), time.time()
        if not access.predictions.breaker.allows_inserts(now) or access.predictions.inserting >= _MOST_INSERTING:
            record.counts["error off"] += 1
            return None
        entries: list[tuple[bytes, Sequence[Buffer], int]] = []
        counters: dict[bytes, tuple[int, int]] = {}
        total = 0
        for key, outputs in items:
            tensors = [output for output in outputs if type(output) is Tensor]
            if len(tensors) != len(outputs):
                record.counts["error no tensor"] += 1
                return None
            record.declared.gave(tensors)
            life_s = cached.rule.life_s(self.chance())
            # Copies, because these may be views of a whole batch's outputs.
            own = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in tensors]
            pieces = encode_entry(key, record.outputs, own)
            size = sum(map(len, pieces))
            counted = record.add(size + len(key), names, wall_s)
            if counted is None:
                break
            for counter, (more, counter_life_s) in counted.items():
                counters[counter] = (counters.get(counter, (0, 0))[0] + more, counter_life_s)
            self.local.put(access.owner, key, own, now, life_s)
            entries.append((key, pieces, life_s))
            record.entry_bytes = size
            total += size
        self._read_budget(cached, names, now, wall_s)
        return partial(self._insert, cached, entries, counters, total) if entries else None

    def _read_budget(self, cached: CachedModel, names: Names, now: float, wall_s: float) -> None:
        """Read now and then what other servers have inserted."""
        budget = cached.record.budget
        if budget is not None and budget.must_read(now):
            window = budget.window(wall_s)
            run_eagerly(self._totals(cached, budget, names, window), _ended)

    @staticmethod
    async def _totals(cached: CachedModel, budget: Budget, names: Names, window: Sequence[int]) -> None:
        counters = [names.bytes_key(budget.span_s, index) for index in window]
        budget.read(dict(zip(window, await cached.access.predictions.totals(counters), strict=True)))

    @staticmethod
    def send(insert: Insert) -> None:
        """Insert into Redis in the background."""
        run_eagerly(insert(), _ended)

    async def _insert(
        self,
        cached: CachedModel,
        items: Sequence[tuple[bytes, Sequence[Buffer], int]],
        counters: dict[bytes, tuple[int, int]],
        size: int,
    ) -> bool:
        """Insert. Returns: whether Redis has accepted it."""
        record = cached.record
        began = time.monotonic()
        with self.accesses.held(cached.access.identity) as access:
            stored = access.predictions
            stored.inserting += 1
            try:
                await access.ensure()
                totals = await stored.insert(items, counters, size >= LARGE_VALUE)
            except UpstreamError as error:
                kind = stored.breaker.insert_failed(str(error), time.monotonic())
                record.counts[f"error {kind}"] += 1
                return False
            finally:
                stored.inserting -= 1
            seconds = time.monotonic() - began
            if stored.breaker.inserted(seconds, began + seconds):
                record.counts["error slow"] += 1
            record.counts["inserts"] += len(items)
            record.counts["bytes"] += size
            record.inserts.extend((seconds,))
            record.cost_benefit.inserted(seconds)
            if record.budget is not None:
                for total in totals:
                    record.budget.counted(record.budget.index(time.time()), total)
        return True

    # -- early refresh -------------------------------------------------------------------------------------------------

    def refresh_local(
        self, cached: CachedModel, inputs: Sequence[Tensor], key: bytes, entry: LocalEntry, now: float
    ) -> None:
        """A local prediction was requested: run the model if its expiry is near, once, at a randomly chosen time, so
        that a popular prediction does not expire for all its requests and on all servers at the same time.
        """
        if not entry.refreshes_at:
            entry.refreshes_at = entry.expires_at - self._ahead_s(cached)
        if now >= entry.refreshes_at:
            entry.refreshes_at = math.inf
            self._refresh_soon(cached, inputs, key, entry.expires_at - now)

    def refresh(self, cached: CachedModel, inputs: Sequence[Tensor], key: bytes, left_s: float) -> None:
        """The same for a prediction found in Redis, where `left_s` of its lifetime remain."""
        entry = self.local.get(cached.access.owner, key, time.monotonic())
        if entry is not None:
            self.refresh_local(cached, inputs, key, entry, time.monotonic())
        elif left_s <= self._ahead_s(cached):
            self._refresh_soon(cached, inputs, key, left_s)

    def _ahead_s(self, cached: CachedModel) -> float:
        """Seconds before its expiry at which a prediction is computed again: one to three times a run's duration."""
        ttl_s = cached.rule.ttl_s
        run_s = max(cached.record.cost_benefit.run_s, min(ttl_s * _AHEAD, _MOST_AHEAD_S))
        return min(run_s * (1 + 2 * self.chance()), ttl_s / 2)

    def _refresh_soon(self, cached: CachedModel, inputs: Sequence[Tensor], key: bytes, left_s: float) -> None:
        flight_key = (cached.access.identity.database, key)
        can = cached.access.predictions.breaker.allows_inserts(time.monotonic())
        if can and flight_key not in self.refreshing and flight_key not in self.flights:
            self.refreshing.begin(flight_key)
            # Copies: views of a client's message may become invalid when its command is over.
            own = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in inputs]
            run_eagerly(self._refresh(cached, own, key, left_s), partial(self._refreshed, flight_key))

    async def _refresh(
        self, cached: CachedModel, inputs: Sequence[Tensor], key: bytes, left_s: float
    ) -> Sequence[Value]:
        """The outputs, of a run, or from another server that was faster."""
        record, stored = cached.record, cached.access.predictions
        value, life_s = await stored.fetch(key, record.entry_bytes >= LARGE_VALUE)
        if value is not None and life_s > left_s + _NEWER_S:
            found = record.decode(key, value)
            self.local.put(cached.access.owner, key, found, time.monotonic(), life_s)
            return found
        record.counts["refreshes"] += 1
        outputs = await self.engine.run_model(cached.loaded, inputs, counted=False)
        insert = self.keep(cached, record.names(cached.rule, cached.access.identity), [(key, outputs)])
        if insert is not None:
            self.send(insert)
        return outputs

    def _refreshed(self, flight_key: FlightKey, outputs: Any, error: BaseException | None) -> None:
        if error is None:
            self.refreshing.complete(flight_key, outputs)
        else:
            self.refreshing.fail(flight_key, error)


def _ended(_: object, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, (RedisAIError, asyncio.CancelledError)):
        raise error
