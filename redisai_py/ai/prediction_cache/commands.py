"""AI.CACHE: rules of models, statistics, purging and warming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redisai_py.ai.model_loading import check_counts, resolve
from redisai_py.ai.prediction_cache.records import CachedModel, CacheRecord, refusal
from redisai_py.ai.prediction_cache.warming import warm
from redisai_py.commands import cache
from redisai_py.commands._args import show_word
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import CommandError, MissingKey, WrongType
from redisai_py.frontdoor.turn import Turn
from redisai_py.ops.tallies import cache_topic, record_tally
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import OK
from redisai_py.serve.figures import added
from redisai_py.store.programs import MODEL_ID_FIELDS
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["HANDLERS"]

_WARMED_AT_ONCE = 64
"""Number of requests whose inputs are read together."""


async def cache_set(request: cache.CacheSet, turn: Turn) -> Any:
    """AI.CACHE SET: for the key's current model, and those stored there later."""
    access = await turn.session.authenticated()
    loaded, _ = await _model(request.key, turn, access)
    reason = refusal(loaded)
    if reason:
        raise CommandError(f"ERR the model's predictions cannot be kept: {reason}")
    if request.rule.rows:
        _check_rows(loaded)
    existed = await access.predictions.set_rule(request.key, request.rule.encode())
    await _rule_changed(access.identity.database, request.key, request.rule, not existed, turn)
    return OK


def _check_rows(loaded: LoadedModel) -> None:
    """Raise CommandError unless merged runs of the model were found equal to single ones."""
    if loaded.not_merged:
        raise CommandError(f"ERR ROWS needs a model that computes each row by itself: {loaded.not_merged}")
    if not loaded.merged_kinds:
        raise CommandError(
            "ERR ROWS needs a model whose batching has proved itself on this server; no merged runs of it have been "
            f"compared yet (BATCHSIZE {loaded.model.batchsize})"
        )


async def cache_get(request: cache.CacheGet, turn: Turn) -> Any:
    """AI.CACHE GET."""
    access = await turn.session.authenticated()
    (ids,) = access.pipeline([(b"HMGET", request.key, *MODEL_ID_FIELDS)])
    return cache.rule_reply((await access.store.model_id(request.key, ids))[1])


async def cache_del(request: cache.CacheDel, turn: Turn) -> Any:
    """AI.CACHE DEL."""
    access = await turn.session.authenticated()
    existed = await access.predictions.set_rule(request.key, None)
    await _rule_changed(access.identity.database, request.key, None, True, turn)
    return int(existed)


async def _rule_changed(database: int, key: bytes, rule: Rule | None, anew: bool, turn: Turn) -> None:
    """Follow the change here and in the server's other front doors. anew: forget the key's counts."""
    turn.services.predictions.rule_changed(database, key, rule, anew)
    encoded = rule.encode().hex() if rule is not None else ""
    topic = cache_topic(database, key)
    what = {"kind": "rule", "database": database, "key": key.hex(), "rule": encoded, "anew": anew, "topic": topic}
    await turn.services.siblings.ask({**what, "changes": True}, {})


async def cache_purge(request: cache.CachePurge, turn: Turn) -> Any:
    """AI.CACHE PURGE: the entries of the key's current model; with SCOPE USER only the client's own."""
    access = await turn.session.authenticated()
    cached = _cached_model(request.key, access, turn, *await _model(request.key, turn, access))
    names = cached.record.names(cached.rule, access.identity)
    count = await access.predictions.purge(names.pattern)
    turn.services.predictions.local.forget(names.prefix)
    what = {"kind": "predictions", "prefix": names.prefix.hex(), "changes": True}
    await turn.services.siblings.ask(what, {})
    cached.record.budget = None
    return count


async def cache_stats(request: cache.CacheStats, turn: Turn) -> Any:
    """AI.CACHE STATS: of this server."""
    access = await turn.session.authenticated()
    loaded, rule = await _model(request.key, turn, access)
    record = turn.services.predictions.record(access.identity.database, request.key)
    if rule is not None:
        record = _cached_model(request.key, access, turn, loaded, rule).record
    state, reason = state_of(record, loaded, rule)
    record = record or CacheRecord()
    counted = await _counted(access.identity.database, request.key, record, turn)
    figures = _figures(record, Counter(counted["counts"]), counted["bypassed"])
    return [b"key", request.key, b"state", state.encode(), b"reason", reason.encode(), *figures]


async def _counted(database: int, key: bytes, record: CacheRecord, turn: Turn) -> dict[str, Any]:
    """What all front doors of this server have counted of the key."""
    own = record_tally(record)
    topic = cache_topic(database, key)
    answer = await turn.services.siblings.ask({"kind": "cache", "topics": [topic]}, {topic: own})
    return added(own, answer.figures.get(topic, {}))


def state_of(record: CacheRecord | None, loaded: LoadedModel, rule: Rule | None) -> tuple[str, str]:
    """`off` without a rule, `refused`, `aside` while look-ups do not pay, else `on`; and the reason."""
    reason = refusal(loaded)
    if rule is None:
        return "off", "the model has no cache rule"
    if reason:
        return "refused", reason
    short_us = loaded.stats.short_run_s * 1e6
    if 0 < short_us < rule.minrun_us:
        return "aside", f"a run takes {short_us:.0f} us, less than MINRUN {rule.minrun_us}"
    if record is not None and record.cost_benefit.aside:
        return "aside", record.cost_benefit.reason
    return "on", ""


def _figures(record: CacheRecord, counts: Counter[str], bypassed: int) -> list[Any]:
    """Counts are the server's; times and the hit rate this process's, since by these it decides."""
    figures = record.cost_benefit
    fields: list[Any] = []
    for name in ("hits", "misses", "joined", "inserts", "refreshes", "warmed", "late", "damaged", "full", "bytes"):
        fields += (name.encode(), counts[name])
    fields += (b"bypassed", bypassed)
    fields += (b"hit_rate", b"%.3f" % figures.hit_rate)
    for name, seconds in (("run", figures.run_s), ("lookup", figures.lookup_s), ("insert", figures.insert_s)):
        fields += (f"{name}_us".encode(), round(seconds * 1e6))
    refused = [
        item
        for kind, count in sorted(counts.items())
        if kind.startswith("error ")
        for item in (kind.removeprefix("error ").encode(), count)
    ]
    return [*fields, b"errors", refused]


async def cache_warm(request: cache.CacheWarm, turn: Turn) -> Any:
    """AI.CACHE WARM."""
    access = await turn.session.authenticated()
    cached = _cached_model(request.key, access, turn, *await _model(request.key, turn, access))
    if cached.record.refusal:
        raise CommandError(f"ERR the model's predictions cannot be kept: {cached.record.refusal}")
    each = len(cached.loaded.inputs)
    for group in request.groups:
        if not each or len(group) % each:
            check_counts(cached.loaded.model, len(group), None)
    keys = [key for group in request.groups for key in group]
    requests: list[Sequence[bytes]] = [keys[at : at + each] for at in range(0, len(keys), each)]
    inserted = present = failed = 0
    for start in range(0, len(requests), _WARMED_AT_ONCE):
        some = requests[start : start + _WARMED_AT_ONCE]
        tensors = await _tensors(access, [key for request_keys in some for key in request_keys])
        inputs = [tensors[at : at + each] for at in range(0, len(tensors), each)]
        done = await warm(turn.services.predictions, cached, inputs)
        cached.record.counts["warmed"] += done[0]
        inserted, present, failed = inserted + done[0], present + done[1], failed + done[2]
        if turn.gone:
            break
    return [b"inserted", inserted, b"present", present, b"failed", failed]


async def _tensors(access: Access, keys: Sequence[bytes]) -> list[Tensor]:
    """The tensors under keys. Raises CommandError, which names the key: one is missing, or holds something else."""
    try:
        return await access.store.tensors(keys)
    except (MissingKey, WrongType) as error:
        for key in keys:
            try:
                await access.store.tensor(key)
            except (MissingKey, WrongType) as wrong:
                raise CommandError(f"{wrong}: {show_word(key)}") from error
        raise


async def _model(key: bytes, turn: Turn, access: Access) -> tuple[LoadedModel, Rule | None]:
    (ids,) = access.pipeline([(b"HMGET", key, *MODEL_ID_FIELDS)])
    return await resolve(key, ids, access.store, turn)


def _cached_model(key: bytes, access: Access, turn: Turn, loaded: LoadedModel, rule: Rule | None) -> CachedModel:
    """The rule of a key. Raises CommandError: there is none."""
    if rule is None:
        raise CommandError("ERR the model has no cache rule; AI.CACHE SET gives it one")
    return turn.services.predictions.cached_model(access, key, loaded, rule)


HANDLERS: dict[type, Any] = {
    cache.CacheSet: cache_set,
    cache.CacheGet: cache_get,
    cache.CacheDel: cache_del,
    cache.CachePurge: cache_purge,
    cache.CacheStats: cache_stats,
    cache.CacheWarm: cache_warm,
}
"""Request -> its handler."""
