"""The prediction cache: whether a run is looked up, and what follows from what is found.

A request with a rule goes: digest of its inputs, what this server has at hand, a run of the same that is under way, one
GET at Redis, and only then a run. What a run gave is answered first and stored then. `ai.prediction` is one request;
this module holds what they share. docs/adr/0038.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.ai.ledgers import Ledger
from redisai_py.ai.prediction import Flight, Miss, Prediction
from redisai_py.backend import DeviceArray
from redisai_py.commands.model_runs import CacheUse
from redisai_py.engine.merging import Value
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.engine.settle import samples
from redisai_py.errors import RedisAIError, UpstreamError
from redisai_py.frontdoor.driver import drive
from redisai_py.predictions.entries import encode_entry
from redisai_py.predictions.identity import Names, inputs_digest, is_sampled
from redisai_py.predictions.local import Local, Near
from redisai_py.predictions.rule import Rule
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.tensor import Buffer, DType, Tensor

if TYPE_CHECKING:
    from redisai_py.ai.runs import Runs
    from redisai_py.upstream.access import Access, AccessTable

__all__ = ["Insert", "Predictions", "Ruled"]

Insert = Callable[[], Coroutine[Any, Any, bool]]

_MOST_LEDGERS = 10_000
_LONGEST_STRINGS = 1024 * 1024
_MOST_INSERTING = 256
"""Where Redis does not answer, what is to be inserted must not fill the memory."""
_AHEAD = 0.01
_MOST_AHEAD_S = 1.0
_FARTHEST = 30.0
"""Beyond so many times the span the chance is nil."""


class Ruled:
    """A model that has a rule, as one client asks for it.

    database, key: where the model is.   access: the client's.
    """

    __slots__ = ("access", "key", "ledger", "loaded", "rule")

    def __init__(self, access: Access, key: bytes, loaded: LoadedModel, rule: Rule, ledger: Ledger) -> None:
        self.access = access
        self.key = key
        self.loaded = loaded
        self.rule = rule
        self.ledger = ledger


class Predictions:
    """Those of one server. Thread: the event loop's.

    Args: limit_bytes: of what is kept in this process.   chance: draws a number from 0 up to 1.
    """

    def __init__(
        self, runs: Runs, accesses: AccessTable, limit_bytes: int, chance: Callable[[], float] = random.random
    ) -> None:
        self.runs = runs
        self.accesses = accesses
        self.local = Local(limit_bytes)
        self.flights: dict[tuple[int, bytes], Flight] = {}
        self.refreshing: set[tuple[int, bytes]] = set()
        self.chance = chance
        self._ledgers: OrderedDict[tuple[int, bytes], Ledger] = OrderedDict()

    # -- ledgers -------------------------------------------------------------------------------------------------------

    def ruled(self, access: Access, key: bytes, loaded: LoadedModel, rule: Rule | None) -> Ruled:
        """A model with its rule and its ledger. Raises Miss if it has none, for CACHE ONLY."""
        if rule is None:
            raise Miss("it has no cache rule")
        place = (access.identity.database, key)
        ledger = self._ledgers.get(place)
        if ledger is None:
            ledger = self._ledgers[place] = Ledger()
            if len(self._ledgers) > _MOST_LEDGERS:
                self._ledgers.popitem(last=False)
        ledger.turn(loaded, rule)
        return Ruled(access, key, loaded, rule, ledger)

    def ledger(self, database: int, key: bytes) -> Ledger | None:
        """What is counted of a key, None if nothing is."""
        return self._ledgers.get((database, key))

    def ledgers(self) -> list[tuple[int, bytes, Ledger]]:
        """Database, key and ledger of all, for the metrics."""
        return [(database, key, ledger) for (database, key), ledger in self._ledgers.items()]

    # -- runs ----------------------------------------------------------------------------------------------------------

    def start(
        self,
        ruled: Ruled,
        inputs: Sequence[Tensor | DeviceArray],
        use: CacheUse,
        timeout_ms: int | None = None,
        *,
        keep_on_device: bool = False,
        counted: bool = True,
    ) -> Run:
        """`Runs.start`, unless the prediction is known. The run may have ended already."""
        tensors = [value for value in inputs if type(value) is Tensor]
        wanted = len(tensors) == len(inputs) and self._wanted(ruled, tensors, use)
        if not wanted and use is not CacheUse.ONLY:
            return self.runs.start(ruled.loaded, inputs, timeout_ms, keep_on_device=keep_on_device, counted=counted)
        prediction = Prediction(self, ruled, tensors, use, timeout_ms, counted)
        if wanted:
            prediction.start()
        else:
            prediction.fail(Miss(ruled.ledger.refusal))
        return prediction

    def _wanted(self, ruled: Ruled, inputs: Sequence[Tensor], use: CacheUse) -> bool:
        """Whether the cache has to do with this request at all."""
        ledger = ruled.ledger
        if use is CacheUse.NO or ledger.refusal:
            return False
        if any(tensor.dtype is DType.STRING and len(tensor.data) > _LONGEST_STRINGS for tensor in inputs):
            return False
        if use is not CacheUse.RULE:
            return True
        if _too_short(ruled.loaded, ruled.rule) or self.stands_aside(ruled, inputs):
            ledger.bypassed += 1
            return False
        return True

    @staticmethod
    def stands_aside(ruled: Ruled, inputs: Sequence[Tensor]) -> bool:
        """Whether look-ups do not pay, and this request is none of those that try again."""
        return ruled.ledger.figures.aside and not is_sampled(inputs)

    def passes_by(self, database: int, key: bytes, loaded: LoadedModel, rule: Rule) -> bool:
        """Whether no request of this model is looked up now, told in 0.2 us."""
        ledger = self._ledgers.get((database, key))
        if ledger is None or ledger.rule is not rule or not (ledger.refusal or _too_short(loaded, rule)):
            return False
        ledger.bypassed += 1
        return True

    # -- what is at hand -----------------------------------------------------------------------------------------------

    def at_hand(self, ruled: Ruled, inputs: Sequence[Tensor]) -> Near | None:
        """The prediction if this server has it; it counts as a hit."""
        ledger = ruled.ledger
        began = time.monotonic()
        digest = inputs_digest(inputs)
        key = ledger.names(ruled.rule, ruled.access.identity).key(digest)
        near = self.local.get(ruled.access.identity, key, began)
        if near is None:
            return None
        if ledger.frequent is not None:
            ledger.frequent.saw(digest, inputs, began)
        self.hit(ruled, time.monotonic() - began)
        self.refresh(ruled, inputs, key, near.expires_at - began)
        return near

    @staticmethod
    def hit(ruled: Ruled, seconds: float) -> None:
        """Count a look-up that found its prediction."""
        ledger = ruled.ledger
        ledger.counts["hits"] += 1
        ledger.lookups.extend((seconds,))
        ledger.figures.looked(seconds, True)

    @staticmethod
    def called(ruled: Ruled, outputs: Sequence[Value]) -> None:
        """A call that needed no execution."""
        ruled.loaded.stats.succeeded(1, 0.0, samples(outputs))

    def rule_changed(self, database: int, key: bytes, rule: Rule | None, anew: bool) -> None:
        """The model under this key has another rule, the first one if `anew`: tell what is near. Other servers find it
        out within a second.
        """
        ledger = self._ledgers.pop((database, key), None) if anew else None
        if ledger is not None:
            for prefix in ledger.prefixes:
                self.local.forget(prefix)
        for access in self.accesses.all():
            if access.near is not None and access.identity.database == database:
                entry = access.near.entries.get(key)
                if entry is not None and entry.identity is not None:
                    entry.rule = rule

    def forget(self, prefix: bytes) -> None:
        """Keep nothing at hand whose key begins so."""
        self.local.forget(prefix)

    # -- keeping -------------------------------------------------------------------------------------------------------

    def keep(self, ruled: Ruled, names: Names, key: bytes, outputs: Sequence[Value]) -> Insert | None:
        """Keep what a run gave at hand, at once; gives what `send` sends to Redis, after the answer."""
        tensors = [output for output in outputs if type(output) is Tensor]
        ledger, access = ruled.ledger, ruled.access
        if len(tensors) != len(outputs):
            ledger.counts["error no tensor"] += 1
            return None
        now = time.monotonic()
        if not access.predictions.health.inserts(now) or access.predictions.inserting >= _MOST_INSERTING:
            ledger.counts["error off"] += 1
            return None
        life_s = ruled.rule.life_s(self.chance())
        pieces = encode_entry(key, ledger.outputs, tensors)
        size = sum(map(len, pieces))
        counters = ledger.add(size + len(key), names, time.time())
        if counters is None:
            return None
        # Copies of what may be a view of a whole batch's outputs.
        own = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in tensors]
        self.local.put(access.identity, key, own, now, life_s)
        ledger.entry_bytes = size
        return partial(self._insert, ruled, [(key, pieces, life_s)], counters, size)

    @staticmethod
    def send(insert: Insert) -> None:
        """Insert in Redis, while others go on."""
        drive(insert(), _ended)

    async def _insert(
        self,
        ruled: Ruled,
        items: Sequence[tuple[bytes, Sequence[Buffer], int]],
        counters: dict[bytes, tuple[int, int]],
        size: int,
    ) -> bool:
        """Whether Redis has taken them."""
        ledger = ruled.ledger
        began = time.monotonic()
        with self.accesses.held(ruled.access.identity) as access:
            shelf = access.predictions
            shelf.inserting += 1
            try:
                await access.ensure()
                totals = await shelf.insert(items, counters, size >= LARGE_VALUE)
            except UpstreamError as error:
                kind = shelf.health.insert_failed(str(error), time.monotonic())
                ledger.counts[f"error {kind}"] += 1
                return False
            finally:
                shelf.inserting -= 1
            seconds = time.monotonic() - began
            if shelf.health.inserted(seconds, began + seconds):
                ledger.counts["error slow"] += 1
            ledger.counts["inserts"] += len(items)
            ledger.counts["bytes"] += size
            ledger.inserts.extend((seconds,))
            ledger.figures.inserted(seconds)
            if ledger.budget is not None:
                for total in totals:
                    ledger.budget.counted(ledger.budget.index(time.time()), total)
        return True

    def refresh(self, ruled: Ruled, inputs: Sequence[Tensor], key: bytes, left_s: float) -> None:
        """Run a model before its prediction expires, for one of those that ask for it: by chance, which grows as the
        end comes near. So that a prediction that many ask for does not expire for all of them at once.
        """
        rule, figures = ruled.rule, ruled.ledger.figures
        ahead_s = max(figures.run_s, min(rule.ttl_s * _AHEAD, _MOST_AHEAD_S))
        place = (ruled.access.identity.database, key)
        if left_s > ahead_s * _FARTHEST or place in self.refreshing or place in self.flights:
            return
        if -ahead_s * math.log(max(self.chance(), 1e-12)) < left_s:
            return
        self.refreshing.add(place)
        ruled.ledger.counts["refreshes"] += 1
        drive(self._refresh(ruled, inputs, key), partial(self._refreshed, place))

    async def _refresh(self, ruled: Ruled, inputs: Sequence[Tensor], key: bytes) -> None:
        # Copies: views of what a client sent may not be valid when its command is over.
        own = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in inputs]
        outputs = await self.runs.start(ruled.loaded, own, counted=False)
        names = ruled.ledger.names(ruled.rule, ruled.access.identity)
        insert = self.keep(ruled, names, key, outputs)
        if insert is not None:
            await insert()

    def _refreshed(self, place: tuple[int, bytes], _: object, error: BaseException | None) -> None:
        self.refreshing.discard(place)


def _too_short(loaded: LoadedModel, rule: Rule) -> bool:
    """Whether the model is faster than MINRUN."""
    return 0 < loaded.short_run_s * 1e6 < rule.minrun_us


def _ended(_: object, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, (RedisAIError, asyncio.CancelledError)):
        raise error
