"""One request whose prediction is looked up.

The first request for a prediction owns its flight (`single_flight`): it looks in Redis, and runs the model on a miss.
Equal requests that arrive meanwhile wait for it. If the owner's client leaves, the flight continues for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redisai_py.ai.prediction_cache.records import CachedModel
from redisai_py.ai.prediction_cache.storing import PredictionStore
from redisai_py.commands.model_runs import CacheUse
from redisai_py.engine.run import Run, Value
from redisai_py.errors import QueueTimeout, RedisAIError, WrongType
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.pending import Pending
from redisai_py.predictions.identity import Names, tensor_digests
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.tensor import Tensor

__all__ = ["Lookup", "Miss", "Request", "SingleLookup"]

_DIGESTED_HERE = 512 * 1024
"""Maximum bytes of inputs that the event loop hashes itself, in 0.3 ms."""
_SHARE = 0.1
"""Fraction of the usual duration of a run, including the queue, that a look-up may take."""
_LEAST_S = 0.001
"""The resolution of timers."""
_UNKNOWN_S = 0.05
"""The same before any measurement."""
_ONLY_S = 1.0
"""The same if no run follows."""


class Miss(RedisAIError):
    """CACHE ONLY, and there is no prediction."""

    def __init__(self, why: str = "") -> None:
        super().__init__(f"MISS no prediction: {why}" if why else _MISS)


_MISS = "MISS no prediction for these inputs is stored"


@dataclass(frozen=True, slots=True)
class Request:
    """A run that the cache may answer. counted: see `Runner.run_model`."""

    cached: CachedModel
    inputs: Sequence[Tensor]
    use: CacheUse
    timeout_ms: int | None
    counted: bool


class Lookup(Run):
    """A run that may turn out to be unnecessary; the caller awaits, counts and cancels it as a `Run`."""

    __slots__ = (
        "_answered",
        "_began",
        "_cached",
        "_names",
        "_own",
        "_predictions",
        "_tensors",
        "_timeout_ms",
        "_timer",
        "_use"
    )  # fmt: skip

    def __init__(self, predictions: PredictionStore, request: Request) -> None:
        # Not Run's: this one is in no queue, and is never merged.
        Pending.__init__(self)
        self.loaded = None
        self.counted = request.counted
        self.ran_s = None
        self._predictions = predictions
        self._cached = cached = request.cached
        self._tensors = request.inputs
        self._use = request.use
        self._timeout_ms = request.timeout_ms
        self._names: Names = cached.record.names(cached.rule, cached.access.identity)
        self._own: Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False
        self._began = time.monotonic()

    def _ask(self, asking: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Ask Redis, and wait for a fraction of a run's duration; `_missed` or `_found` follows."""
        record, stored = self._cached.record, self._cached.access.predictions
        if not stored.breaker.allows_lookups(time.monotonic()):
            record.counts["off"] += 1
            self._unasked()
            return
        usual_s = record.cost_benefit.run_s or self._cached.loaded.stats.short_run_s
        limit_s = max(usual_s * _SHARE, _LEAST_S) if usual_s else _UNKNOWN_S
        if self._use is CacheUse.ONLY:
            limit_s = _ONLY_S
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._late, 2)
        run_eagerly(asking(), self._asked)

    def _late(self, rounds: int) -> None:
        """The time is over. First check whether an answer has come but was not read yet."""
        if rounds:
            asyncio.get_running_loop().call_soon(self._late, rounds - 1)
        elif not self._answered:
            self._answered = True
            self._cached.record.counts["late"] += 1
            self._missed()

    def _asked(self, found: Any, error: BaseException | None) -> None:
        if self._answered:
            return
        self._answered = True
        self._cancel_timer()
        if error is not None:
            kind = self._cached.access.predictions.breaker.lookup_failed(str(error), time.monotonic())
            self._cached.record.counts[f"error {kind}"] += 1
            self._missed()
        else:
            self._found(found)

    def _miss(self) -> Miss:
        """Why CACHE ONLY has no answer."""
        breaker = self._cached.access.predictions.breaker
        return (
            Miss() if breaker.allows_lookups(time.monotonic()) else Miss(f"Redis refused the look-up: {breaker.reason}")
        )

    def _found(self, found: Any) -> None:
        """Redis has answered."""
        raise NotImplementedError

    def _missed(self) -> None:
        """Redis has no answer, or not in time."""
        raise NotImplementedError

    def _unasked(self) -> None:
        """Redis is not asked at present."""
        raise NotImplementedError

    # -- running -------------------------------------------------------------------------------------------------------

    def _run_model(self, inputs: Sequence[Tensor], ended: Callable[[list[Value]], object], counted: bool) -> None:
        """Run the model. Its outputs go to `ended`, its error to `_end`."""
        loaded = self._cached.loaded
        own = self._own = self._predictions.engine.run_model(loaded, inputs, self._timeout_ms, counted=counted)
        ran = partial(self._ran, ended, time.monotonic())
        if own.done:
            ran(own)
        else:
            own.waiter = ran

    def _ran(self, ended: Callable[[list[Value]], object], began: float, own: Pending[Any]) -> None:
        self.ran_s = self._own.ran_s if self._own is not None else None
        self._own = None
        if own.error is not None:
            self._end(own.error)
        else:
            self._cached.record.cost_benefit.ran(time.monotonic() - began)
            ended(own.result())

    # -- the end -------------------------------------------------------------------------------------------------------

    def cancel_queued(self) -> bool:
        """See `Run.cancel_queued`. What others wait for continues."""
        if self.done:
            return False
        if self._is_awaited():
            self.fail(asyncio.CancelledError())
            return True
        if self._own is not None:
            return self._own.cancel_queued()
        self._answered = True  # nobody waits for the look-up any more
        self._end(asyncio.CancelledError())
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _is_awaited(self) -> bool:
        """Whether others wait for its flights."""
        raise NotImplementedError

    def _end(self, error: BaseException) -> None:
        """It failed: leave the flights of others, and end its own."""
        raise NotImplementedError


class SingleLookup(Lookup):
    """A request whose prediction is one entry."""

    __slots__ = ("_digest_s", "_flight_key", "_key", "_owns", "_waits", "_waits_until")

    def __init__(self, predictions: PredictionStore, request: Request) -> None:
        super().__init__(predictions, request)
        self._key = b""
        self._flight_key = (request.cached.access.identity.database, b"")
        self._owns = self._waits = self._waits_until = False
        """It owns the prediction's flight; it waits for another request's; it has a timer for that."""
        self._digest_s = 0.0

    # -- looking -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look up, and run on a miss."""
        known, owner, tensors = self._predictions.known_inputs, self._cached.access.owner, self._tensors
        if sum([len(tensor.data) for tensor in tensors]) <= _DIGESTED_HERE:
            self._digested(known.digest(owner, tensors))
        elif (digest := known.find(owner, tensors)) is not None:
            self._digested(digest)
        else:
            run_eagerly(self._digest_aside(), self._digested_aside)

    async def _digest_aside(self) -> bytes:
        loop = asyncio.get_running_loop()
        digests = await loop.run_in_executor(None, tensor_digests, self._tensors)
        self._predictions.known_inputs.add(self._cached.access.owner, self._tensors, digests)
        return b"".join(digests)

    def _digested_aside(self, digest: Any, error: BaseException | None) -> None:
        if error is not None:
            self._end(error)
        elif not self.done:
            self._digested(digest)

    def _digested(self, digest: bytes) -> None:
        predictions, record, access = self._predictions, self._cached.record, self._cached.access
        self._key = key = self._names.key(digest)
        self._flight_key = (access.identity.database, key)
        now = time.monotonic()
        self._digest_s = now - self._began
        record.saw(digest, self._tensors, access.identity, now)
        if self._use is CacheUse.REFRESH:
            self._run()
            return
        entry = predictions.local.get(access.owner, key, now)
        if entry is not None:
            self._hit(entry.outputs)
            predictions.refresh_local(self._cached, self._tensors, key, entry, now)
            return
        if self._use is CacheUse.ONLY:
            self._look()
            return
        if self._claim():
            self._look()

    def _claim(self) -> bool:
        """Whether it owns the flight now; otherwise it waits."""
        self._owns = self._predictions.flights.take(self._flight_key, self)
        if not self._owns:
            self._wait()
        return self._owns

    def _wait(self) -> None:
        """Wait for another request's run, as long as the client allows."""
        self._waits = True
        if self._timeout_ms is not None and not self._waits_until:
            self._waits_until = True
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_ms / 1000, self._end, QueueTimeout())

    def _look(self) -> None:
        record, stored = self._cached.record, self._cached.access.predictions
        self._ask(partial(stored.fetch, self._key, record.entry_bytes >= LARGE_VALUE))

    def _unasked(self) -> None:
        if self._use is CacheUse.ONLY:
            self._end(self._miss())
        else:
            self._run()

    def _found(self, found: Any) -> None:
        record, access = self._cached.record, self._cached.access
        value, life_s = found
        if value is None:
            self._missed()
            return
        try:
            outputs = record.decode(self._key, value)
        except WrongType:
            record.counts["damaged"] += 1
            self._missed()
            return
        self._predictions.local.put(access.owner, self._key, outputs, time.monotonic(), life_s)
        self._hit(outputs)
        self._predictions.refresh(self._cached, self._tensors, self._key, life_s)

    # -- what was found ------------------------------------------------------------------------------------------------

    def _hit(self, outputs: Sequence[Value]) -> None:
        self._cached.record.hit(time.monotonic() - self._began)
        self._complete(outputs)
        self._give(outputs)

    def _give(self, outputs: Sequence[Value]) -> None:
        """The outputs of another request's run."""
        if self.done:
            return
        self._cancel_timer()
        self.ran_s = 0.0
        if self.counted:
            self._predictions.called(self._cached, outputs)
        self.resolve(list(outputs))

    def _missed(self) -> None:
        if self._use is CacheUse.ONLY:
            self._cached.record.counts["misses"] += 1
            self._end(self._miss())
            return
        record = self._cached.record
        seconds = time.monotonic() - self._began
        record.counts["misses"] += 1
        record.lookups.extend((seconds,))
        record.cost_benefit.looked(seconds, False)
        if self._predictions.refreshing.join(self._flight_key, self):
            self._wait()
        else:
            self._run()

    def _run(self) -> None:
        """Run the model; its end completes the flight."""
        self._run_model(self._tensors, self._keep, self.counted)

    def _keep(self, outputs: list[Value]) -> None:
        """Answer with the outputs of a run, and store them."""
        insert = self._predictions.keep(self._cached, self._names, [(self._key, outputs)])
        self._complete(outputs)
        self.resolve(outputs)
        if insert is not None:
            self._predictions.send(insert)

    def _is_awaited(self) -> bool:
        return self._owns and self._predictions.flights.is_awaited(self._flight_key)

    def _end(self, error: BaseException) -> None:
        if self._waits:
            self._waits = False
            for flights in (self._predictions.flights, self._predictions.refreshing):
                flights.leave(self._flight_key, self)
        self._cancel_timer()
        self.fail(error)
        if self._owns:
            self._owns = False
            self._predictions.flights.fail(self._flight_key, error)

    def _complete(self, outputs: Sequence[Value]) -> None:
        if self._owns:
            self._owns = False
            self._predictions.flights.complete(self._flight_key, outputs)

    def completed(self, key: bytes, outputs: Sequence[Value]) -> None:
        """See `Waiter`."""
        self._waits = False
        self._complete(outputs)
        if not self.done:
            record = self._cached.record
            record.counts["joined"] += 1
            record.cost_benefit.looked(self._digest_s, True)
            self._give(outputs)

    def failed(self, key: bytes, together: bool) -> None:
        """See `Waiter`."""
        self._waits = False
        if not self._owns and (self.done or (together and not self._claim())):
            return
        self._cancel_timer()
        if self._timeout_ms is not None:
            waited_ms = int((time.monotonic() - self._began) * 1000)
            self._timeout_ms = max(1, self._timeout_ms - waited_ms)
        self._run()
