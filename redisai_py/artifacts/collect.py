"""Garbage collection: delete blobs that no version of any name reaches, except blobs that writers hold (`leases`).

Roots are the manifests listed by names (artifacts, data sets, runs) and the blobs in the tails of data sets. A manifest
that cannot be read stops the collection, because the blobs it needs are unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from redisai_py.artifacts.connection import scanned, watching
from redisai_py.artifacts.digest import hex_of, is_digest
from redisai_py.artifacts.errors import ArtifactError, Conflict
from redisai_py.artifacts.leases import leased, redis_time
from redisai_py.artifacts.names import KINDS, is_name
from redisai_py.artifacts.store import Store
from redisai_py.artifacts.strings import lengths
from redisai_py.client.call import Progress

__all__ = ["Collected", "Root", "collect", "discard", "reachable", "roots"]

_GROUP = 500
_SCAN = 1000


@dataclass(frozen=True)
class Root:
    """A digest referenced by a name.   manifest: the digest of a manifest, not of a plain blob."""

    kind: str
    name: str
    field: str
    digest: str
    manifest: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name}:{self.field}"


@dataclass
class Collected:
    """Result of a collection.   kept, removed: blobs, counting each part.   bytes: of the removed ones.   leased: kept
    blobs that only running writers need.
    """

    kept: int = 0
    removed: int = 0
    bytes: int = 0
    leased: int = 0
    digests: list[str] = field(default_factory=list)
    """Bytes of the removed blobs."""


def roots(store: Store) -> Iterator[Root]:
    """Every digest that a name references. O(keys of the database), in steps that block no other client."""
    prefix = store.keys.prefix
    for kind in KINDS:
        for key, name in scanned(store.redis, f"{prefix}{kind}:", "hash"):
            if not is_name(name):
                continue
            fields: Any = store.redis.hgetall(key)
            for entry, value in fields.items():
                digest = value.decode("utf-8", "replace")
                if is_digest(digest):
                    yield Root(kind, name, entry.decode("utf-8", "replace"), digest)
        for key, name in scanned(store.redis, f"{prefix}tail:{kind}:", "stream"):
            if is_name(name):
                yield from (Root(kind, name, at, digest, False) for at, digest in _tail(store.redis, key))


def _tail(link: Any, key: bytes) -> Iterator[tuple[str, str]]:
    start = "-"
    while entries := link.xrange(key, min=start, count=_SCAN):
        for at, fields in entries:
            for value in fields.values():
                digest = value.decode("utf-8", "replace")
                if is_digest(digest):
                    yield at.decode(), digest
        start = f"({entries[-1][0].decode()}"


def reachable(store: Store, found: Iterable[Root], evicted: Collection[str] = ()) -> set[str]:
    """All digests that roots need: manifests, configs, layers, parts.

    Args:   evicted: manifests whose layers need not be in Redis.
    Raises: Conflict: a manifest is missing or damaged.
    """
    reached: set[str] = set()
    for root in found:
        if root.digest in reached:
            continue
        needed = {root.digest}
        if root.manifest:
            try:
                manifest = store.get_manifest(root.digest, str(root))
            except ArtifactError as error:
                if not _holds(store, root):  # removed since it was read
                    continue
                raise Conflict(
                    f"{error}. Nothing was collected, because the blobs it needs are unknown: "
                    "pull it from its archive, or remove this version"
                ) from error
            needed |= {manifest.config.digest} if root.digest in evicted else {blob.digest for blob in manifest.blobs()}
        for digest in needed - reached:
            needed |= {part for part, _ in store.blobs.parts(digest) or ()}
        reached |= needed
    return reached


def _holds(store: Store, root: Root) -> bool:
    """Whether a name still references its digest."""
    found: Any = store.redis.hget(store.keys.versions(root.kind, root.name), root.field)
    return found is not None and found.decode("utf-8", "replace") == root.digest


def collect(
    store: Store, dry_run: bool = False, evicted: Collection[str] = (), progress: Progress | None = None
) -> Collected:
    """Delete blobs that no name reaches.

    Args:    dry_run: only report.   evicted: manifests whose layers are in an archive, and may go unless others need
             them.
             progress: called with the number of candidates done, and of all.
    Raises:  Conflict: a manifest cannot be read; nothing was deleted.   redis.RedisError.
    """
    began = redis_time(store.redis)
    there = _stored(store)
    reached = {digest[7:] for digest in reachable(store, roots(store), evicted)}
    candidates = sorted(digits for digits in there if digits not in reached)
    result = Collected(kept=len(there) - len(candidates))
    for start in range(0, len(candidates), _GROUP):
        _sweep(store, candidates[start : start + _GROUP], there, began, dry_run, result)
        if progress is not None:
            progress(min(start + _GROUP, len(candidates)), len(candidates))
    return result


def discard(store: Store, digests: Iterable[str]) -> Collected:
    """Delete blobs that only the caller's own versions can have referenced, except blobs that a writer holds.

    For blobs whose content names their owner, so that no other name can reach them. Unlike `collect`,
    searches nothing.

    Raises: Conflict, redis.RedisError.
    """
    began = redis_time(store.redis)
    there = {hex_of(digest): [store.keys.blob(digest).encode()] for digest in digests}
    result = Collected()
    doomed = sorted(there)
    for start in range(0, len(doomed), _GROUP):
        _sweep(store, doomed[start : start + _GROUP], there, began, False, result)
    return result


def _stored(store: Store) -> dict[str, list[bytes]]:
    """Keys of blobs and part lists, by the hex digits of their digests."""
    found: dict[str, list[bytes]] = {}
    for family in ("blob", "parts"):
        for key, digest in scanned(store.redis, f"{store.keys.prefix}{family}:"):
            if is_digest(digest) and key not in found.setdefault(digest[7:], []):
                found[digest[7:]].append(key)
    return found


def _sweep(
    store: Store, group: list[str], there: dict[str, list[bytes]], began: float, dry_run: bool, result: Collected
) -> None:
    """Delete a group of blobs, except those leased at the moment of deletion."""

    def sweep(pipeline: Any) -> tuple[list[str], list[int]]:
        held: set[str] = leased(pipeline, store.keys, began)
        doomed = [digits for digits in group if digits not in held]
        keys = [key for digits in doomed for key in there[digits]]
        sizes = lengths(store.redis, keys)
        pipeline.multi()
        if keys and not dry_run:
            pipeline.unlink(*keys)
        return doomed, sizes

    doomed, sizes = watching(store.redis, sweep, store.keys.leases, busy="writers were too busy to delete anything")
    result.kept += len(group) - len(doomed)
    result.leased += len(group) - len(doomed)
    result.removed += len(doomed)
    result.bytes += sum(sizes)
    result.digests += [f"sha256:{digits}" for digits in doomed]
