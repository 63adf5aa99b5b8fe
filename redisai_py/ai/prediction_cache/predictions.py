"""The prediction cache: whether a run is looked up, and the rules of models.

A request with a rule goes through these steps: digest of its inputs, the server's local cache, an equal run in
progress, one GET at Redis, and only then a run. The request is answered first; its outputs are stored afterwards.
`lookup` handles one request; `storing` is what they share. docs/adr/0038.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from redisai_py.ai.prediction_cache.lookup import Miss, Request, SingleLookup
from redisai_py.ai.prediction_cache.records import CachedModel, CacheRecord
from redisai_py.ai.prediction_cache.row_lookup import RowLookup, rows_apart
from redisai_py.ai.prediction_cache.storing import PredictionStore
from redisai_py.backend import DeviceArray
from redisai_py.commands.model_runs import CacheUse
from redisai_py.engine.run import LoadedModel, Run
from redisai_py.errors import RedisAIError
from redisai_py.predictions.identity import is_sampled
from redisai_py.predictions.local import LocalEntry
from redisai_py.predictions.rule import Rule
from redisai_py.predictions.shared_inputs import SharedInputs
from redisai_py.store.cache import Entry
from redisai_py.tensor import DType, Tensor
from redisai_py.upstream.access import Access

__all__ = ["Predictions"]

Entries = Sequence[tuple[bytes, Entry]]
_MOST_RECORDS = 10_000
_LONGEST_STRINGS = 1024 * 1024


class Predictions(PredictionStore):
    """The prediction cache of one server. Arguments: see `PredictionStore`."""

    # -- records -------------------------------------------------------------------------------------------------------

    def cached_model(self, access: Access, key: bytes, loaded: LoadedModel, rule: Rule | None) -> CachedModel:
        """A model with its rule and its record. Raises Miss for CACHE ONLY without a rule."""
        if rule is None:
            raise Miss("it has no cache rule")
        record_key = (access.identity.database, key)
        record = self._records.get(record_key)
        if record is None:
            record = self._records[record_key] = CacheRecord()
            if len(self._records) > _MOST_RECORDS:
                self._records.popitem(last=False)
        record.update(loaded, rule)
        return CachedModel(access, key, loaded, rule, record)

    def record(self, database: int, key: bytes) -> CacheRecord | None:
        """The record of a key, None if there is none."""
        return self._records.get((database, key))

    def records(self) -> list[tuple[int, bytes, CacheRecord]]:
        """Database, key and record of all keys, for the metrics."""
        return [(database, key, record) for (database, key), record in self._records.items()]

    # -- runs ----------------------------------------------------------------------------------------------------------

    def start(
        self,
        cached: CachedModel,
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
        wanted = len(tensors) == len(inputs) and self._wanted(cached, tensors, use)
        if not wanted and use is not CacheUse.ONLY:
            return self.engine.run_model(
                cached.loaded, inputs, timeout_ms, keep_on_device=keep_on_device, counted=counted
            )
        if not wanted:
            raise Miss(cached.record.refusal)
        request = Request(cached, tensors, use, timeout_ms, counted)
        rows = rows_apart(cached.loaded, tensors) if cached.rule.rows else 0
        lookup = RowLookup(self, request, rows) if rows else SingleLookup(self, request)
        lookup.start()
        return lookup

    def _wanted(self, cached: CachedModel, inputs: Sequence[Tensor], use: CacheUse) -> bool:
        """Whether the cache handles this request."""
        record = cached.record
        if use is CacheUse.NO or record.refusal:
            return False
        if any(tensor.dtype is DType.STRING and len(tensor.data) > _LONGEST_STRINGS for tensor in inputs):
            return False
        if use is not CacheUse.RULE:
            return True
        if _too_short(cached.loaded, cached.rule) or self.is_bypassed(cached, inputs):
            record.bypassed += 1
            return False
        return True

    @staticmethod
    def is_bypassed(cached: CachedModel, inputs: Sequence[Tensor]) -> bool:
        """Whether look-ups do not pay, and this request is not one of those that keep trying."""
        return cached.record.cost_benefit.aside and not is_sampled(inputs)

    def bypasses(self, database: int, key: bytes, loaded: LoadedModel, rule: Rule) -> bool:
        """Whether no request of this model is looked up at present; decided in 0.2 us."""
        record = self._records.get((database, key))
        if record is None or record.rule is not rule or not (record.refusal or _too_short(loaded, rule)):
            return False
        record.bypassed += 1
        return True

    # -- the local cache -----------------------------------------------------------------------------------------------

    def get_local(self, cached: CachedModel, inputs: Sequence[Tensor], entries: Entries = ()) -> LocalEntry | None:
        """The prediction, if this server has it and finds it within a few microseconds; counts as a hit.

        Args: entries: of the inputs in the near cache, if they come from there: these know their digests.
        """
        record, access = cached.record, cached.access
        began = time.monotonic()
        digest: bytes | None
        if entries:
            digest = entries[0][1].digest() if len(entries) == 1 else b"".join([each.digest() for _, each in entries])
        else:
            digest = self.known_inputs.quick_digest(access.owner, inputs)
        if digest is None:
            return None
        key = record.names(cached.rule, access.identity).key(digest)
        entry = self.local.get(access.owner, key, began)
        if entry is None:
            return None
        record.saw(digest, inputs, access.identity, began)
        record.hit(time.monotonic() - began)
        self.refresh_local(cached, inputs, key, entry, began)
        return entry

    def rule_changed(self, database: int, key: bytes, rule: Rule | None, anew: bool) -> None:
        """The model of this key has another rule, the first one if `anew`: update the near cache. Other servers notice
        within a second.
        """
        record = self._records.pop((database, key), None) if anew else None
        if record is not None:
            for prefix in record.prefixes:
                self.local.forget(prefix)
        for access in self.accesses.all():
            if access.near is not None and access.identity.database == database:
                entry = access.near.entries.get(key)
                if entry is not None and entry.identity is not None:
                    entry.rule = rule

    async def share_inputs(self) -> None:
        """Add what this server counted for WARM to the counts of all servers."""
        for record, key in [(record, key) for (_, key), record in self._records.items()]:
            rule, identity = record.rule, record.seen_by
            if rule is None or record.frequent is None or identity is None:
                continue
            news = record.frequent.news(rule.warm)
            if rule.per_user:
                continue  # users must not see the inputs of others
            with suppress(RedisAIError), self.accesses.held(identity) as access:
                if news and access.predictions.breaker.allows_inserts(time.monotonic()):
                    await access.ensure()
                    await access.predictions.share_inputs(SharedInputs(key), news, rule.warm)


def _too_short(loaded: LoadedModel, rule: Rule) -> bool:
    """Whether the model is faster than MINRUN."""
    return 0 < loaded.stats.short_run_s * 1e6 < rule.minrun_us
