"""Detecting models and scripts that disappeared without a command of ours: DEL, FLUSHALL, expiry, eviction, another
server.

RedisAI frees a model with its key. Here the key belongs to Redis, and nothing tells this server that it is gone
(managed services withhold keyspace notifications). So it asks: twice a minute, one HGET per known model, with its own
credentials. Without the right to ask, it keeps such models until they are the least recently used.
"""

from __future__ import annotations

import asyncio

from redisai_py.errors import UpstreamError, WrongType
from redisai_py.frontdoor.services import Services
from redisai_py.ops.keymap import Held, Place

__all__ = ["keep_sweeping", "sweep"]

INTERVAL_S = 30.0
_ASKED_AT_ONCE = 500


async def keep_sweeping(services: Services) -> None:
    """Sweep until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        await sweep(services)


async def sweep(services: Services) -> None:
    """Free the programs that their keys no longer hold. Never fails: without an answer, a program stays."""
    by_database: dict[int, list[tuple[Place, Held]]] = {}
    for place, held in services.keys.entries():
        by_database.setdefault(place.database, []).append((place, held))
    for database, entries in by_database.items():
        for at in range(0, len(entries), _ASKED_AT_ONCE):
            await _sweep(services, database, entries[at : at + _ASKED_AT_ONCE])


async def _sweep(services: Services, database: int, entries: list[tuple[Place, Held]]) -> None:
    try:
        access = await services.control.access(database)
        replies = access.pipeline([(b"HMGET", place.key, b"kind", b"id") for place, _ in entries])
    except UpstreamError:
        return
    for (place, held), pending in zip(entries, replies, strict=True):
        try:
            fields = await pending
        except WrongType:
            fields = None
        except UpstreamError:
            continue
        if fields != [place.kind.value, held.stored_id.encode()] and services.keys.held(place) == held:
            services.programs.missed(place)
