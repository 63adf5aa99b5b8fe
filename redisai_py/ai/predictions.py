"""The prediction cache: whether a run is looked up, and the rules of models.

A request with a rule goes through these steps: digest of its inputs, the server's local cache, an equal run in
progress, one GET at Redis, and only then a run. The request is answered first; its outputs are stored afterwards.
`ai.prediction` handles one request; `ai.keeping` is what they share. docs/adr/0038.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

from redisai_py.ai.keeping import Keeping
from redisai_py.ai.ledgers import Ledger, Ruled
from redisai_py.ai.prediction import Miss, Prediction
from redisai_py.ai.row_predictions import RowsPrediction, rows_apart
from redisai_py.backend import DeviceArray
from redisai_py.commands.model_runs import CacheUse
from redisai_py.engine.engine import Engine
from redisai_py.engine.run import LoadedModel, Run
from redisai_py.errors import RedisAIError
from redisai_py.predictions.identity import is_sampled
from redisai_py.predictions.local import Near
from redisai_py.predictions.rule import Rule
from redisai_py.predictions.shared_inputs import SharedInputs
from redisai_py.store.cache import Entry
from redisai_py.tensor import DType, Tensor
from redisai_py.upstream.access import Access, AccessTable

__all__ = ["Predictions"]

Entries = Sequence[tuple[bytes, Entry]]
_MOST_LEDGERS = 10_000
_LONGEST_STRINGS = 1024 * 1024


class Predictions(Keeping):
    """The prediction cache of one server. Arguments: see `Keeping`."""

    def __init__(
        self,
        engine: Engine,
        accesses: AccessTable,
        prediction_cache_bytes: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(engine, accesses, prediction_cache_bytes, chance)
        self._ledgers: OrderedDict[tuple[int, bytes], Ledger] = OrderedDict()

    # -- ledgers -------------------------------------------------------------------------------------------------------

    def ruled(self, access: Access, key: bytes, loaded: LoadedModel, rule: Rule | None) -> Ruled:
        """A model with its rule and its ledger. Raises Miss for CACHE ONLY without a rule."""
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
        """The ledger of a key, None if there is none."""
        return self._ledgers.get((database, key))

    def ledgers(self) -> list[tuple[int, bytes, Ledger]]:
        """Database, key and ledger of all keys, for the metrics."""
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
        """`Runs.start`, unless the prediction is known. The run may have ended already.

        Raises Miss: CACHE ONLY of a model that is never cached.
        """
        tensors = [value for value in inputs if type(value) is Tensor]
        wanted = len(tensors) == len(inputs) and self._wanted(ruled, tensors, use)
        if not wanted and use is not CacheUse.ONLY:
            return self.engine.run_model(
                ruled.loaded, inputs, timeout_ms, keep_on_device=keep_on_device, counted=counted
            )
        if not wanted:
            raise Miss(ruled.ledger.refusal)
        if ruled.rule.rows and (rows := rows_apart(ruled.loaded, tensors)):
            by_row = RowsPrediction(self, ruled, tensors, use, timeout_ms, counted, rows)
            by_row.start()
            return by_row
        prediction = Prediction(self, ruled, tensors, use, timeout_ms, counted)
        prediction.start()
        return prediction

    def _wanted(self, ruled: Ruled, inputs: Sequence[Tensor], use: CacheUse) -> bool:
        """Whether the cache handles this request."""
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
        """Whether look-ups do not pay, and this request is not one of those that keep trying."""
        return ruled.ledger.figures.aside and not is_sampled(inputs)

    def passes_by(self, database: int, key: bytes, loaded: LoadedModel, rule: Rule) -> bool:
        """Whether no request of this model is looked up at present; decided in 0.2 us."""
        ledger = self._ledgers.get((database, key))
        if ledger is None or ledger.rule is not rule or not (ledger.refusal or _too_short(loaded, rule)):
            return False
        ledger.bypassed += 1
        return True

    # -- the local cache -----------------------------------------------------------------------------------------------

    def at_hand(self, ruled: Ruled, inputs: Sequence[Tensor], entries: Entries = ()) -> Near | None:
        """The prediction, if this server has it and finds it within a few microseconds; counts as a hit.

        Args: entries: of the inputs in the near cache, if they come from there: these know their digests.
        """
        ledger, access = ruled.ledger, ruled.access
        began = time.monotonic()
        digest: bytes | None
        if entries:
            digest = entries[0][1].digest() if len(entries) == 1 else b"".join([each.digest() for _, each in entries])
        else:
            digest = self.known_inputs.quick_digest(access.owner, inputs)
        if digest is None:
            return None
        key = ledger.names(ruled.rule, access.identity).key(digest)
        near = self.local.get(access.owner, key, began)
        if near is None:
            return None
        ledger.saw(digest, inputs, access.identity, began)
        ledger.hit(time.monotonic() - began)
        self.refresh_near(ruled, inputs, key, near, began)
        return near

    def rule_changed(self, database: int, key: bytes, rule: Rule | None, anew: bool) -> None:
        """The model of this key has another rule, the first one if `anew`: update the near cache. Other servers notice
        within a second.
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

    def expire(self) -> None:
        """Drop expired entries."""
        self.local.expire(time.monotonic())

    async def share_inputs(self) -> None:
        """Add what this server counted for WARM to the counts of all servers."""
        for ledger, key in [(ledger, key) for (_, key), ledger in self._ledgers.items()]:
            rule, identity = ledger.rule, ledger.seen_by
            if rule is None or ledger.frequent is None or identity is None:
                continue
            news = ledger.frequent.news(rule.warm)
            if rule.per_user:
                continue  # users must not see the inputs of others
            with suppress(RedisAIError), self.accesses.held(identity) as access:
                if news and access.predictions.health.inserts(time.monotonic()):
                    await access.ensure()
                    await access.predictions.share_inputs(SharedInputs(key), news, rule.warm)

    def forget(self, prefix: bytes) -> None:
        """Drop local entries whose key has this prefix."""
        self.local.forget(prefix)


def _too_short(loaded: LoadedModel, rule: Rule) -> bool:
    """Whether the model is faster than MINRUN."""
    return 0 < loaded.stats.short_run_s * 1e6 < rule.minrun_us
