"""Predictions computed before they are requested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from redisai_py.ai.ledgers import Ledger, Ruled
from redisai_py.ai.predictions import Predictions
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import RedisAIError
from redisai_py.predictions.identity import inputs_digest
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
        before = predictions.ledger(access.identity.database, key)
        if rule is None or not rule.warm or before is None or before.frequent is None:
            return
        ledger = Ledger()
        ledger.turn(loaded, rule)
        if ledger.refusal:
            return
        requests = [
            inputs for inputs in before.frequent.top(rule.warm, time.monotonic()) if len(inputs) == len(loaded.inputs)
        ]
        ruled = Ruled(access, key, loaded, rule, ledger)
        until = time.monotonic() + _LONGEST_S
        for start in range(0, len(requests), _AT_ONCE):
            if time.monotonic() > until:
                break
            done = await warm(predictions, ruled, requests[start : start + _AT_ONCE])
            before.counts["warmed"] += done[0]


async def warm(predictions: Predictions, ruled: Ruled, requests: Sequence[Sequence[Tensor]]) -> Warmed:
    """Compute the missing predictions. Raises UpstreamError: Redis refuses."""
    inserted = present = failed = 0
    ledger, shelf = ruled.ledger, ruled.access.predictions
    names = ledger.names(ruled.rule, ruled.access.identity)
    for start in range(0, len(requests), _AT_ONCE):
        some = {names.key(inputs_digest(inputs)): inputs for inputs in requests[start : start + _AT_ONCE]}
        present += len(requests[start : start + _AT_ONCE]) - len(some)
        known = await shelf.which_exist(list(some))
        present += len(known)
        runs = {
            key: predictions.runs.start(ruled.loaded, inputs, counted=False)
            for key, inputs in some.items()
            if key not in known
        }
        for key, run in runs.items():
            try:
                outputs = await run
            except RedisAIError:
                failed += 1
                continue
            insert = predictions.keep(ruled, names, [(key, outputs)])
            if insert is not None and await insert():
                inserted += 1
            else:
                failed += 1
    return inserted, present, failed
