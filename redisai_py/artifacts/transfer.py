"""Transfers between Redis and an archive: push, pull, and deletion in the archive.

The order of writes makes it safe to be killed at any point. Push: blobs, then the index. Pull: blobs, then the name.
Existing blobs are not sent again, so a second attempt continues where the first ended.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from redisai_py.artifacts.archive import Archive
from redisai_py.artifacts.collect import Collected
from redisai_py.artifacts.errors import Conflict, Corrupt, Malformed, Missing
from redisai_py.artifacts.layout import COLLECTED, Entry, Index
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.manifest import Descriptor, Manifest
from redisai_py.artifacts.names import Reference
from redisai_py.artifacts.registry import Version
from redisai_py.artifacts.store import Store
from redisai_py.client.call import Progress

__all__ = ["Pulled", "Pushed", "collect_archive", "pull", "push", "remove_archived"]

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16
_SMALL = 1024 * 1024
_LIST_FROM = 64
_TRIES = 200
_COLLECTING_S = 60.0
"""Seconds of silence after which a collector counts as killed."""
_DELETE_COUNT = 500
_WAIT_S = 120.0


@dataclass
class Pushed:
    """versions: in the archive now.   blobs, bytes: number sent, without those that existed."""

    versions: list[Version] = field(default_factory=list)
    blobs: int = 0
    bytes: int = 0


@dataclass
class Pulled:
    """versions: in Redis now.   blobs, bytes: number fetched.   kept: aliases that point elsewhere here, and stay."""

    versions: list[Version] = field(default_factory=list)
    blobs: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


def push(
    store: Store, archive: Archive, references: Sequence[str], kind: str = "artifact", progress: Progress | None = None
) -> Pushed:
    """Copy versions and their aliases into an archive: all of NAME, or one for NAME:7 and NAME@ALIAS.

    Raises: ArchiveError; Missing, Corrupt: in Redis.   Conflict: the archive has another version of that number.
    """
    done = Pushed(versions=store.registry(kind).select(references))
    manifests = {version.digest: store.get_manifest(version.digest, str(version)) for version in done.versions}
    _push_entries(store, archive, kind, done, manifests, progress)
    for name in {version.name for version in done.versions}:
        mine = [version.version for version in done.versions if version.name == name]
        fields = {"url": archive.url, "versions": " ".join(map(str, mine))}
        store.registry(kind).note(name, "push", fields, dict.fromkeys(mine, archive.url))
    return done


def _push_entries(
    store: Store, archive: Archive, kind: str, done: Pushed, manifests: dict[str, Manifest], progress: Progress | None
) -> None:
    """Send blobs, then the index; repeat if somebody has changed the index meanwhile."""
    described = {digest: (len(each.encode()), each.artifact_type) for digest, each in manifests.items()}
    entries = [Entry(kind, v.name, v.version, v.digest, *described[v.digest], v.aliases) for v in done.versions]
    wanted = _blobs_of(manifests)
    began = time.monotonic()
    for index, seen in _attempts(archive, "push"):
        merged = index.merged(entries)
        if _being_collected(index):
            if time.monotonic() - began > _WAIT_S:
                raise Conflict(f"{archive.url} is being collected; push again afterwards")
            time.sleep(0.2)
            continue
        # Looked up after the index was read: a collector changes the index before it deletes blobs.
        _send(store, archive, wanted, done, progress)
        if (seen is not None and merged == index) or archive.replace(replace(merged, collecting=None), seen):
            return


def _attempts(archive: Archive, verb: str = "try") -> Iterator[tuple[Index, Any]]:
    """The index and its token, read again for each attempt to replace it. Raises: Conflict: it changed every time."""
    for attempt in range(_TRIES):
        # At random, so that writers that collided do not collide again.
        time.sleep(random.uniform(0, min(1.0, 0.02 * attempt)))
        yield archive.index()
    raise Conflict(f"{archive.url}: its index changed repeatedly; {verb} again later")


def _blobs_of(manifests: dict[str, Manifest]) -> list[Descriptor]:
    wanted = {blob.digest: blob for manifest in manifests.values() for blob in manifest.blobs()}
    for digest, manifest in manifests.items():
        wanted[digest] = Descriptor("", digest, len(manifest.encode()))
    return list(wanted.values())


def _send(
    store: Store, archive: Archive, wanted: Sequence[Descriptor], done: Pushed, progress: Progress | None
) -> None:
    there = _sizes(archive, wanted)
    missing = [blob for blob in wanted if there.get(blob.digest) != blob.size]
    total = sum(blob.size for blob in missing)
    sent = 0

    def send(blob: Descriptor) -> int:
        try:
            archive.put(blob.digest, store.blobs.stream(blob.digest), blob.size)
        except Corrupt as error:
            raise Corrupt(_name(blob), error.expected, error.found, "Redis") from None
        except Missing as error:
            raise Missing(f"{_name(blob)}: {error}") from None
        return blob.size

    small = _in_parallel(send, [blob for blob in missing if blob.size <= _SMALL])
    large = (send(blob) for blob in missing if blob.size > _SMALL)
    for size in itertools.chain(small, large):
        sent += size
        done.blobs += 1
        done.bytes += size
        if progress is not None:
            progress(sent, total)


def _in_parallel(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results in order, several computed at a time; none is started after one has failed."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _name(blob: Descriptor) -> str:
    return f"layer {blob.title}" if blob.annotations else f"blob {blob.digest}"


def _sizes(archive: Archive, wanted: Sequence[Descriptor]) -> dict[str, int | None]:
    if len(wanted) >= _LIST_FROM:
        return {digest: size for digest, (size, _) in archive.blobs().items()}
    digests = [blob.digest for blob in wanted]
    return dict(zip(digests, _in_parallel(archive.size, digests), strict=True))


# -- pull ----------------------------------------------------------------------------------------------------------


def pull(
    store: Store,
    archive: Archive,
    references: Sequence[str] | None = None,
    kind: str = "artifact",
    check: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Copy versions from an archive into Redis, checking every digest.

    A version keeps its number if that is free here; otherwise it gets the next one. An alias is copied unless it points
    elsewhere here, because moving it would be a promotion.

    Args:   references: all of NAME, or one for NAME:7 and NAME@ALIAS; by default everything of the kind.
            check: read what is in Redis and replace damaged blobs; otherwise only lengths are checked.
    Raises: ArchiveError, Missing, Corrupt, Invalid. An incomplete version does not exist.
    """
    index, _ = archive.index()
    chosen: dict[tuple[str, int], Entry] = {}
    for text in references if references is not None else sorted({e.name for e in index.entries if e.kind == kind}):
        chosen |= {(entry.name, entry.version): entry for entry in index.select(kind, text)}
    if not chosen:
        raise Missing(f"{archive.url} has no {kind}")
    done = Pulled()
    for entry in chosen.values():
        with store.lease() as lease:
            manifest = archive.manifest(entry.digest, str(entry))
            if check:
                _drop_damaged(store, entry, manifest)
            _fetch(store, archive, entry, manifest, lease, done, progress)
            done.versions.append(_commit_version(store, archive, entry, manifest, lease))
        _copy_aliases(store, entry, done)
    return done


def _commit_version(store: Store, archive: Archive, entry: Entry, manifest: Manifest, lease: Lease) -> Version:
    registry = store.registry(entry.kind)
    try:
        return store.commit(entry.kind, entry.name, manifest, lease, entry.version, pulled=archive.url)
    except Conflict:
        try:
            known = registry.resolve(Reference(entry.name, version=entry.version))
        except Missing:
            raise
        if known.digest == entry.digest:
            raise
        return store.commit(
            entry.kind, entry.name, manifest, lease, None, pulled=archive.url, number_there=entry.version
        )


def _copy_aliases(store: Store, entry: Entry, done: Pulled) -> None:
    registry = store.registry(entry.kind)
    version = done.versions[-1].version
    for alias in entry.aliases:
        pointed = registry.pointed(entry.name, alias)
        if pointed is None:
            registry.promote(entry.name, version, alias, expected=None)
        elif pointed != version:
            done.kept.append(f"{entry.name}@{alias}")


def _drop_damaged(store: Store, entry: Entry, manifest: Manifest) -> None:
    """Delete blobs of a version that do not match their digests; they are fetched next."""
    for digest in {entry.digest, *(blob.digest for blob in manifest.blobs())}:
        try:
            for _ in store.blobs.stream(digest):
                pass
        except Missing:
            continue
        except (Corrupt, Malformed):
            store.redis.delete(*store.blobs.damaged_keys(digest))


def _fetch(
    store: Store,
    archive: Archive,
    entry: Entry,
    manifest: Manifest,
    lease: Lease,
    done: Pulled,
    progress: Progress | None,
) -> None:
    """Fetch the missing blobs of one version."""
    wanted = {blob.digest: blob for blob in manifest.blobs()}
    with store.redis.pipeline(transaction=False) as pipeline:
        lease.hold(pipeline, wanted)
        pipeline.execute()
    there = store.blobs.sizes(list(wanted))
    missing = [blob for blob in wanted.values() if there[blob.digest] != blob.size]
    total, fetched = sum(blob.size for blob in missing), 0
    for blob, size in _fetched(store, archive, missing, lease):
        if size != blob.size:
            raise Corrupt(_name(blob), f"of {blob.size} bytes", f"one of {size}", archive.url)
        fetched += size
        done.blobs += 1
        done.bytes += size
        if progress is not None:
            progress(fetched, total)


def _fetched(
    store: Store, archive: Archive, missing: Sequence[Descriptor], lease: Lease
) -> Iterator[tuple[Descriptor, int]]:
    small = [blob for blob in missing if blob.size <= _SMALL]
    for start in range(0, len(small), 4 * _THREADS):
        group = small[start : start + 4 * _THREADS]
        data = list(_in_parallel(lambda blob: archive.get(blob.digest, _SMALL, _name(blob)), group))
        store.blobs.put_many(data, lease)
        yield from ((blob, len(content)) for blob, content in zip(group, data, strict=True))
    for blob in missing:
        if blob.size > _SMALL:
            pieces = archive.stream(blob.digest, _name(blob))
            yield blob, store.blobs.put_stream(_bounded(pieces, blob), lease, blob.digest)[1]


def _bounded(pieces: Iterator[bytes], blob: Descriptor) -> Iterator[bytes]:
    """The pieces, but no more bytes than the manifest says, whatever the archive holds."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > blob.size:
            raise Corrupt(_name(blob), blob.digest, f"of more than the {blob.size} bytes announced")
        yield piece


# -- deletion in the archive ---------------------------------------------------------------------------------------


def remove_archived(archive: Archive, kind: str, name: str, versions: Sequence[int]) -> None:
    """Remove versions from the index; their blobs stay until `collect_archive`. Raises: Missing, ArchiveError."""
    for index, seen in _attempts(archive):
        for version in versions:
            index.select(kind, f"{name}:{version}")
        if archive.replace(index.without(kind, name, versions), seen):
            return


def collect_archive(archive: Archive, older_s: float = 3600, dry_run: bool = False) -> Collected:
    """Delete blobs of an archive that its index does not reach.

    Args:    older_s: only blobs older than this many seconds, so that a running push need not send its blobs again.
    Raises:  Conflict: somebody else is collecting, or a manifest cannot be read.   ArchiveError.
    """
    for index, seen in _attempts(archive):
        if _being_collected(index):
            raise Conflict(
                f"{archive.url} is being collected already; a collector that was killed is forgotten in a minute"
            )
        done = _unreached(archive, index, older_s)
        # The token stays. Otherwise the index could look as before, and a push that had looked up blobs would pass.
        notes = {**index.annotations, COLLECTED: secrets.token_hex(8)}
        marked = replace(index, collecting=time.time(), annotations=notes)
        if dry_run or not done.digests:
            return done
        if archive.replace(marked, seen):
            break
    for start in range(0, len(done.digests), _DELETE_COUNT):
        if start:
            marked = _renewed(archive, marked)
        archive.delete(done.digests[start : start + _DELETE_COUNT])
    _end_collecting(archive, marked)
    return done


def _unreached(archive: Archive, index: Index, older_s: float) -> Collected:
    reached = set()
    for digest in {entry.digest for entry in index.entries} | {str(item["digest"]) for item in index.foreign}:
        try:
            manifest = archive.manifest(digest, f"manifest {digest}")
        except (Missing, Corrupt) as error:
            raise Conflict(f"{error}. Nothing was collected, because the blobs it needs are unknown") from error
        reached |= {digest, *(blob.digest for blob in manifest.blobs())}
    there = archive.blobs()
    old = time.time() - older_s
    doomed = sorted(digest for digest, (_, written) in there.items() if digest not in reached and written <= old)
    return Collected(len(there) - len(doomed), len(doomed), sum(there[digest][0] for digest in doomed), digests=doomed)


def _renewed(archive: Archive, marked: Index) -> Index:
    """Renew the mark of the running collection. Raises: Conflict: the mark was too old, and a push ignored it."""
    now, seen = archive.index()
    renewed = replace(now, collecting=time.time())
    if now.collecting != marked.collecting or not archive.replace(renewed, seen):
        raise Conflict(f"collecting {archive.url} took too long, and was stopped; start it again")
    return renewed


def _end_collecting(archive: Archive, marked: Index) -> None:
    with suppress(Conflict):  # pushes ignore a mark that is a minute old
        for index, seen in _attempts(archive):
            if index.collecting != marked.collecting or archive.replace(replace(index, collecting=None), seen):
                return


def _being_collected(index: Index) -> bool:
    """Clocks of machines differ, and one may have been set back: what is said to begin later has not begun."""
    return index.collecting is not None and abs(time.time() - index.collecting) < _COLLECTING_S
