"""Cache rules of models in the near cache: another server may have changed them, and a run on cached values reads none.

Once a second each identity reads the rules of the models in its near cache. Runs that read from Redis read the rule
with the model's id, and do not need this.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redisai_py.errors import RedisAIError
from redisai_py.predictions.rule import RULE_FIELD, decode_rule

if TYPE_CHECKING:
    from redisai_py.frontdoor.services import Services
    from redisai_py.store.cache import Entry
    from redisai_py.upstream.access import Access

__all__ = ["INTERVAL_S", "refresh"]

INTERVAL_S = 1.0
_ASKED_AT_ONCE = 500


async def refresh(services: Services) -> None:
    """Drop what has expired, share what was counted, and read the rules. Never fails."""
    services.predictions.local.expire(time.monotonic())
    await services.predictions.share_inputs()
    for access in services.accesses.all():
        await _refresh_rules(access)


async def _refresh_rules(access: Access) -> None:
    """Update the cached models of an identity with the current rules of their keys. Never fails."""
    near = access.near
    if near is None or not near.model_keys or access.stream(next(iter(near.model_keys))) is None:
        return
    models: dict[bytes, Entry] = {}
    for key in list(near.model_keys):
        entry = near.entries.get(key)
        if entry is None or entry.identity is None:
            near.model_keys.discard(key)
        elif len(models) < _ASKED_AT_ONCE:
            models[key] = entry
    try:
        replies = access.pipeline([(b"HMGET", key, b"id", RULE_FIELD) for key in models])
    except RedisAIError:
        return
    for entry, pending in zip(models.values(), replies, strict=True):
        try:
            stored_id, rule = await pending
        except RedisAIError:
            continue
        if stored_id == entry.raw:
            entry.rule = decode_rule(rule)
