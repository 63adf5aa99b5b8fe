"""Predictions computed before they are requested."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from redisai_py.ai.ledgers import Ledger, Ruled
from redisai_py.ai.predictions import Predictions
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
        ledger = Ledger()
        ledger.turn(loaded, rule)
        if ledger.refusal:
            return
        before = predictions.ledger(access.identity.database, key)
        ruled = Ruled(access, key, loaded, rule, ledger)
        until = time.monotonic() + _LONGEST_S
        async for requests in _frequent(ruled, before):
            done = await warm(predictions, ruled, requests)
            if before is not None:
                before.counts["warmed"] += done[0]
            if time.monotonic() > until:
                break


async def _frequent(ruled: Ruled, before: Ledger | None) -> AsyncIterator[list[list[Tensor]]]:
    """The most frequent inputs, some at a time: of all servers, or of this one where those are not known."""
    shelf, each, warmed = ruled.access.predictions, len(ruled.loaded.inputs), ruled.rule.warm
    shared = SharedInputs(ruled.key)
    members: list[bytes] = []
    if not ruled.rule.per_user:
        with suppress(RedisAIError):
            members = await shelf.most_frequent(shared, warmed)
    found = 0
    for start in range(0, len(members), _AT_ONCE):
        some = await shelf.shared_inputs(shared, members[start : start + _AT_ONCE], each)
        yield some[: warmed - found]
        found += len(some)
        if found >= warmed:
            break
    if not found and before is not None and before.frequent is not None:
        own = [inputs for inputs in before.frequent.top(warmed, time.monotonic()) if len(inputs) == each]
        for start in range(0, len(own), _AT_ONCE):
            yield own[start : start + _AT_ONCE]


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
            key: predictions.engine.run_model(ruled.loaded, inputs, counted=False)
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
