"""Noticing models and scripts that are gone without a command of ours: DEL, FLUSHALL, expiry, eviction, another
server.

RedisAI frees a model with its key. Here the key is Redis's, and nothing tells this server of its end (keyspace
notifications are withheld by managed services), so it asks: twice a minute, one HGET per model that it has met, with
its own credentials. A server that Redis does not let ask keeps such models until they are the least recently used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redisai_py.errors import UpstreamError, WrongType
from redisai_py.ops.keymap import Held, Place

if TYPE_CHECKING:
    from redisai_py.frontdoor.server import Server

__all__ = ["keep_house", "sweep"]

INTERVAL_S = 30.0
_ASKED_AT_ONCE = 500


async def keep_house(server: Server) -> None:
    """Sweep until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        await sweep(server)


async def sweep(server: Server) -> None:
    """Let go of what its key no longer holds. Never fails: what cannot be asked is left alone."""
    by_database: dict[int, list[tuple[Place, Held]]] = {}
    for place, held in server.keys.entries():
        by_database.setdefault(place.database, []).append((place, held))
    for database, entries in by_database.items():
        for at in range(0, len(entries), _ASKED_AT_ONCE):
            await _sweep(server, database, entries[at : at + _ASKED_AT_ONCE])


async def _sweep(server: Server, database: int, entries: list[tuple[Place, Held]]) -> None:
    try:
        access = await server.control.access(database)
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
        if fields != [place.kind.value, held.stored_id.encode()] and server.keys.held(place) == held:
            server.loading.missed(place)
