"""Predictions computed ahead of the requests for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redisai_py.ai.predictions import Ruled
from redisai_py.errors import RedisAIError
from redisai_py.predictions.identity import inputs_digest
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.ai.predictions import Predictions

__all__ = ["Warmed", "warm"]

Warmed = tuple[int, int, int]
"""How many predictions were inserted, were there already, and could not be computed or inserted."""
_AT_ONCE = 16
"""Runs that are queued together: enough for a batch, few enough that clients' runs get their turn."""


async def warm(predictions: Predictions, ruled: Ruled, requests: Sequence[Sequence[Tensor]]) -> Warmed:
    """Compute what is not there yet. Raises UpstreamError: Redis refuses to be asked."""
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
            insert = predictions.keep(ruled, names, key, outputs)
            if insert is not None and await insert():
                inserted += 1
            else:
                failed += 1
    return inserted, present, failed
