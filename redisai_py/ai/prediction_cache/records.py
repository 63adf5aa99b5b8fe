"""Prediction statistics and state of each model key on this server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redisai_py.backend import TensorSpec
from redisai_py.bounded import BoundedCache
from redisai_py.engine.run import LoadedModel
from redisai_py.engine.stats import Histogram
from redisai_py.errors import WrongType
from redisai_py.predictions.budget import Budget
from redisai_py.predictions.cost_benefit import CostBenefit
from redisai_py.predictions.declared import Declared, Spec
from redisai_py.predictions.entries import decode_entry, output_names
from redisai_py.predictions.frequent import Frequent
from redisai_py.predictions.identity import Names, model_part
from redisai_py.predictions.rule import Rule
from redisai_py.tensor import Buffer, DType, Tensor
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity

__all__ = ["CacheRecord", "CachedModel", "refusal"]


_TOGETHER = 32
"""Number of hits that are counted together."""
_MOST_USERS = 1000


def refusal(loaded: LoadedModel) -> str:
    """Why a model's predictions cannot be cached; empty if they can."""
    if loaded.stateful:
        return "it may keep state between runs, so equal inputs may give other outputs"
    draws = loaded.draws
    return f"its outputs are not decided by its inputs ({draws})" if draws else ""


def _declared(spec: TensorSpec) -> Spec:
    return (None if spec.dtype is None else DType.from_numpy(np.dtype(spec.dtype))), spec.shape


class CacheRecord:
    """The record of one model key. When another model is stored there, counters continue and measurements restart."""

    def __init__(self) -> None:
        self.rule: Rule | None = None
        self.refusal = ""
        self.cost_benefit = CostBenefit()
        self.budget: Budget | None = None
        self.frequent: Frequent | None = None
        self.seen_by: Identity | None = None
        """The identity that sent the last counted inputs."""
        self.outputs: tuple[str, ...] = ()
        self.declared = Declared(())
        self._counts: Counter[str] = Counter()
        self._hits: list[float] = []
        self.lookups = Histogram()
        self.inserts = Histogram()
        self.bypassed = 0
        """Requests that ran without a look-up."""
        self.entry_bytes = 0
        """Size of the most recent entry; the next one is probably as large."""
        self._model = ""
        self._part = b""
        self._names: BoundedCache[bytes | None, Names] = BoundedCache(_MOST_USERS)

    @property
    def counts(self) -> Counter[str]:
        """hits, misses, joined, inserts, refreshes, late, off, damaged, full, bytes; refusals by kind."""
        if self._hits:
            self._add_hits()
        return self._counts

    def hit(self, seconds: float) -> None:
        """A look-up took `seconds` and found its prediction. Counted in groups: a hit takes only microseconds."""
        self._hits.append(seconds)
        if len(self._hits) == _TOGETHER:
            self._add_hits()

    def _add_hits(self) -> None:
        hits, self._hits = self._hits, []
        self._counts["hits"] += len(hits)
        self.lookups.extend(hits)
        self.cost_benefit.looked(sum(hits) / len(hits), True, len(hits))

    def saw(self, digest: bytes, inputs: Sequence[Tensor], identity: Identity, now: float) -> None:
        """Count inputs of this client, for WARM."""
        if self.frequent is not None:
            self.frequent.saw(digest, inputs, now)
            self.seen_by = identity

    def update(self, loaded: LoadedModel, rule: Rule) -> None:
        """The key now holds this model and this rule."""
        if loaded.id != self._model:
            self._model = loaded.id
            part = model_part(loaded.model, loaded.version)
            if part != self._part:  # otherwise the same model was stored again
                self._part = part
                self._names.clear()
                self.cost_benefit = CostBenefit()
                self.budget = None
            self.refusal = refusal(loaded)
            self.outputs = output_names(loaded.outputs)
            self.declared = Declared([_declared(spec) for spec in loaded.output_specs])
        if rule is not self.rule:
            if self.rule is None or rule.ttl_s != self.rule.ttl_s:
                self.budget = None
            self.rule = rule
            self.frequent = (self.frequent or Frequent()) if rule.warm else None

    def decode(self, key: bytes, value: Buffer) -> list[Tensor]:
        """The outputs in an entry. Raises WrongType: it is not one of this key and this model."""
        outputs = decode_entry(key, value, self.outputs)
        if not self.declared.admits(outputs):
            raise WrongType
        return outputs

    def names(self, rule: Rule, identity: Identity) -> Names:
        """The prediction keys of the model for one user."""
        user = (identity.user or b"default") if rule.per_user else None
        names = self._names.get(user)
        if names is None:
            names = self._names.keep(user, Names(self._part, user))
        return names

    @property
    def prefixes(self) -> list[bytes]:
        """The prefix of its prediction keys."""
        return [names.prefix for names in self._names.values()]

    def add(self, size: int, names: Names, now_s: float) -> dict[bytes, tuple[int, int]] | None:
        """Count bytes to be inserted, for MAXBYTES. Returns: the counters for Redis; None if the limit is exceeded."""
        rule = self.rule
        if rule is None or not rule.maxbytes:
            return {}
        if self.budget is None:
            self.budget = Budget(rule.ttl_s)
        budget = self.budget
        if not budget.admit(size, rule.maxbytes, now_s):
            self.counts["full"] += 1
            return None
        return {names.bytes_key(budget.span_s, budget.index(now_s)): (size, budget.life_s)}


@dataclass(slots=True)
class CachedModel:
    """A model with a rule, as requested by one client. key: of the model.   access: the client's."""

    access: Access
    key: bytes
    loaded: LoadedModel
    rule: Rule
    record: CacheRecord
