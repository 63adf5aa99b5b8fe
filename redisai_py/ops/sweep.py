"""Detecting models and scripts that disappeared without a command of ours: DEL, FLUSHALL, expiry, eviction, another
server.

RedisAI frees a model with its key. Here the key belongs to Redis, and nothing tells this server that it is gone
(managed services withhold keyspace notifications). So it asks: twice a minute, one HGET per known model, with its own
credentials. Without the right to ask, it keeps such models until they are the least recently used.
"""

from __future__ import annotations

from redisai_py.errors import UpstreamError, WrongType
from redisai_py.frontdoor.services import Services
from redisai_py.ops.keymap import ProgramEntry, ProgramKey

__all__ = ["INTERVAL_S", "sweep"]

INTERVAL_S = 30.0
_ASKED_AT_ONCE = 500


async def sweep(services: Services) -> None:
    """Free the programs that their keys no longer hold. Never fails: without an answer, a program stays."""
    by_database: dict[int, list[tuple[ProgramKey, ProgramEntry]]] = {}
    for program_key, entry in services.keys.entries():
        by_database.setdefault(program_key.database, []).append((program_key, entry))
    for database, entries in by_database.items():
        for at in range(0, len(entries), _ASKED_AT_ONCE):
            await _sweep(services, database, entries[at : at + _ASKED_AT_ONCE])


async def _sweep(services: Services, database: int, entries: list[tuple[ProgramKey, ProgramEntry]]) -> None:
    try:
        access = await services.control.access(database)
        replies = access.pipeline([(b"HMGET", program_key.key, b"kind", b"id") for program_key, _ in entries])
    except UpstreamError:
        return
    for (program_key, entry), pending in zip(entries, replies, strict=True):
        try:
            fields = await pending
        except WrongType:
            fields = None
        except UpstreamError:
            continue
        if fields != [program_key.kind.value, entry.stored_id.encode()] and services.keys.get(program_key) == entry:
            services.programs.record_missing(program_key)
