"""Predictions computed before they are requested."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from redisai_py.ai.prediction_cache.predictions import Predictions
from redisai_py.ai.prediction_cache.records import CachedModel, CacheRecord
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import RedisAIError
from redisai_py.predictions.identity import inputs_digest
from redisai_py.predictions.shared_inputs import SharedInputs
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["Warmed", "warm", "warm_new_version"]

Warmed = tuple[int, int, int]
"""Numbers of predictions that were inserted, were present, and failed."""
_LONGEST_S = 60.0
"""Maximum time AI.MODELSTORE waits for its predictions."""
_AT_ONCE = 16
"""Runs that are queued together: enough for a batch, but few enough for clients' runs to get their turn."""


async def warm_new_version(predictions: Predictions, access: Access, key: bytes, loaded: LoadedModel) -> None:
    """Compute the predictions of a model that is about to be stored under a key, for the most frequent inputs of its
    current model, according to the key's rule. Never fails, because it only saves time.
    """
    with suppress(RedisAIError):
        rule = await access.predictions.rule(key)
        if rule is None or not rule.warm:
            return
        record = CacheRecord()
        record.update(loaded, rule)
        if record.refusal:
            return
        before = predictions.record(access.identity.database, key)
        cached = CachedModel(access, key, loaded, rule, record)
        until = time.monotonic() + _LONGEST_S
        async for requests in _frequent(cached, before):
            done = await warm(predictions, cached, requests)
            if before is not None:
                before.counts["warmed"] += done[0]
            if time.monotonic() > until:
                break


async def _frequent(cached: CachedModel, before: CacheRecord | None) -> AsyncIterator[list[list[Tensor]]]:
    """The most frequent inputs, some at a time: of all servers, then those that only this one knows of yet."""
    stored, each, warmed = cached.access.predictions, len(cached.loaded.inputs), cached.rule.warm
    shared = SharedInputs(cached.key)
    members: list[bytes] = []
    if not cached.rule.per_user:
        with suppress(RedisAIError):
            members = await stored.most_frequent(shared, warmed)
    found: set[bytes] = set()
    for start in range(0, len(members), _AT_ONCE):
        some = await stored.shared_inputs(shared, members[start : start + _AT_ONCE], each)
        yield some[: warmed - len(found)]
        found.update(map(inputs_digest, some))
        if len(found) >= warmed:
            return
    if before is not None and before.frequent is not None:
        top = before.frequent.top(warmed, time.monotonic())
        own = [inputs for inputs in top if len(inputs) == each and inputs_digest(inputs) not in found]
        own = own[: warmed - len(found)]
        for start in range(0, len(own), _AT_ONCE):
            yield own[start : start + _AT_ONCE]


async def warm(predictions: Predictions, cached: CachedModel, requests: Sequence[Sequence[Tensor]]) -> Warmed:
    """Compute the missing predictions. Raises UpstreamError: Redis refuses."""
    inserted = present = failed = 0
    record, stored = cached.record, cached.access.predictions
    names = record.names(cached.rule, cached.access.identity)
    for start in range(0, len(requests), _AT_ONCE):
        some = {names.key(inputs_digest(inputs)): inputs for inputs in requests[start : start + _AT_ONCE]}
        present += len(requests[start : start + _AT_ONCE]) - len(some)
        known = await stored.which_exist(list(some))
        present += len(known)
        runs = {
            key: predictions.engine.run_model(cached.loaded, inputs, counted=False)
            for key, inputs in some.items()
            if key not in known
        }
        for key, run in runs.items():
            try:
                outputs = await run
            except RedisAIError:
                failed += 1
                continue
            insert = predictions.keep(cached, names, [(key, outputs)])
            if insert is not None and await insert():
                inserted += 1
            else:
                failed += 1
    return inserted, present, failed
