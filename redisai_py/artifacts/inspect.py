"""Inspecting artifacts: contents of a version, differences, sizes, integrity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis

from redisai_py.artifacts.archive import Archive
from redisai_py.artifacts.collect import Collected, collect, reachable, roots
from redisai_py.artifacts.deploy import deployments
from redisai_py.artifacts.errors import ArtifactError, Conflict, Invalid, Missing, reading
from redisai_py.artifacts.manifest import Descriptor, Manifest, decode_json
from redisai_py.artifacts.names import KINDS
from redisai_py.artifacts.registry import Version
from redisai_py.artifacts.store import Store
from redisai_py.client.call import Progress
from redisai_py.client.failures import failure_of
from redisai_py.errors import WrongType

__all__ = [
    "Difference",
    "Overview",
    "Problem",
    "Usage",
    "difference",
    "evict",
    "metrics_of",
    "overview",
    "usage",
    "verify",
]

_MAX_METRICS = 1024 * 1024


@dataclass(frozen=True)
class Overview:
    """Summary of a version.

    missing: titles of layers that are not in Redis.   deployed: keys, and the TAG of each.
    versions: all of the name.   lineage: digests by name; versions of this Redis by their names.
    """

    version: Version
    manifest: Manifest
    versions: list[Version]
    metrics: dict[str, Any]
    lineage: dict[str, str]
    missing: list[str]
    deployed: dict[str, str]
    size: int


def overview(store: Store, reference: str) -> Overview:
    """Summarise one version. Raises: Missing, Corrupt, Invalid."""
    registry = store.registry("artifact")
    version, manifest = store.open("artifact", reference)
    sizes = store.blobs.sizes([layer.digest for layer in manifest.layers])
    config = store.config(manifest)
    lineage = config.get("lineage") if isinstance(config, dict) else None
    if not isinstance(lineage, dict):
        lineage = {}
    versions = registry.versions(version.name)
    names = {known.digest: str(known) for known in versions}
    return Overview(
        version,
        manifest,
        versions,
        metrics_of(store, manifest),
        {key: names.get(str(value), str(value)) for key, value in lineage.items()},
        [layer.title for layer in manifest.layers if sizes[layer.digest] != layer.size],
        {key: _tag(store, key) for key in deployments(store, version.name)},
        sum(layer.size for layer in manifest.layers),
    )


def _tag(store: Store, key: str) -> str:
    """The TAG of a model's key."""
    try:
        found: Any = store.redis.hget(key, "tag")
    except redis.ResponseError as error:
        return "not a model any more" if isinstance(failure_of(error), WrongType) else f"unknown: {error}"
    return "gone" if found is None else found.decode("utf-8", "replace").partition(" ")[0]


def metrics_of(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The metrics of a version; empty if they are not in Redis. Raises: Corrupt, Invalid."""
    for layer in manifest.layers:
        if layer.title == "metrics.json":
            try:
                with reading():
                    found = decode_json("metrics.json", store.read(layer, _MAX_METRICS))
            except Missing:
                return {}
            return found if isinstance(found, dict) else {"metrics": found}
    return {}


@dataclass(frozen=True)
class Difference:
    """metrics: both values by name, None if missing.   layers: by title: same, changed, added or removed.
    shared, new: bytes of the second version that the first has, or lacks.
    """

    metrics: dict[str, tuple[Any, Any]]
    layers: dict[str, str]
    shared: int
    new: int


def difference(store: Store, one: str, other: str) -> Difference:
    """Compare two versions. Raises: Missing, Corrupt, Invalid."""
    first, second = (store.open("artifact", reference)[1] for reference in (one, other))
    before, after = ({layer.title: layer for layer in manifest.layers} for manifest in (first, second))
    words = {}
    for title in sorted(before | after):
        if title not in after:
            words[title] = "removed"
        elif title not in before:
            words[title] = "added"
        else:
            same = before[title].content_digest == after[title].content_digest
            words[title] = "same" if same else "changed"
    left, right = metrics_of(store, first), metrics_of(store, second)
    there = {blob.digest for blob in first.blobs()}
    shared = sum(blob.size for blob in second.blobs() if blob.digest in there)
    return Difference(
        {name: (left.get(name), right.get(name)) for name in sorted(left | right)},
        words,
        shared,
        sum(blob.size for blob in second.blobs()) - shared,
    )


@dataclass
class Usage:
    """Bytes in Redis.   names: by name, what only it reaches, and what it shares.   orphans: reached by no name."""

    total: int = 0
    orphans: int = 0
    names: dict[str, tuple[int, int]] = field(default_factory=dict)


def usage(store: Store) -> Usage:
    """Memory by name. O(keys of the database), in steps. Raises: Conflict: a manifest cannot be read."""
    owners: dict[str, set[str]] = {}
    found = list(roots(store))
    for name in sorted({f"{root.kind} {root.name}" for root in found}):
        for digest in reachable(store, iter(root for root in found if f"{root.kind} {root.name}" == name)):
            owners.setdefault(digest, set()).add(name)
    done = Usage(names=dict.fromkeys({name for names in owners.values() for name in names}, (0, 0)))
    for digest, size in store.blobs.sizes([d for d in owners if store.blobs.parts(d) is None]).items():
        done.total += size or 0
        for name in owners[digest]:
            alone, shared = done.names[name]
            mine = len(owners[digest]) == 1
            done.names[name] = (alone + (size or 0), shared) if mine else (alone, shared + (size or 0))
    done.orphans = collect(store, dry_run=True).bytes
    done.total += done.orphans
    return done


@dataclass(frozen=True)
class Problem:
    """version: the affected version.   text: what is wrong.   fatal: False for layers evicted to an archive."""

    version: str
    text: str
    fatal: bool = True


def verify(
    store: Store, references: list[Version], archive: Archive | None = None, progress: Progress | None = None
) -> list[Problem]:
    """Read every byte of versions, in Redis or in an archive, and compare it with its digest.

    Args: progress: called with the bytes read and the total. Bytes shared by several versions are read once.
    """
    problems: list[Problem] = []
    wanted: dict[str, tuple[Version, Descriptor]] = {}
    for version in references:
        try:
            get_manifest = store.get_manifest if archive is None else archive.manifest
            manifest = get_manifest(version.digest, str(version))
        except ArtifactError as error:
            problems.append(Problem(str(version), str(error)))
            continue
        for blob in manifest.blobs():
            wanted.setdefault(blob.digest, (version, blob))
    total, done = sum(blob.size for _, blob in wanted.values()), 0
    for version, blob in wanted.values():
        problems += _problems(store, version, blob, archive)
        done += blob.size
        if progress is not None:
            progress(done, total)
    return problems


def _problems(store: Store, version: Version, blob: Descriptor, archive: Archive | None) -> list[Problem]:
    try:
        for _ in store.stream(blob) if archive is None else archive.stream(blob.digest, f"layer {blob.title}"):
            pass
    except Missing as error:
        if archive is None and version.archived:
            return [Problem(str(version), f"layer {blob.title} is in {version.archived} alone", fatal=False)]
        return [Problem(str(version), str(error))]
    except ArtifactError as error:
        return [Problem(str(version), str(error))]
    return []


def _evicted(store: Store) -> set[str]:
    """Digests of manifests whose layers were evicted before: archived, and with a layer missing in Redis."""
    found = set()
    named = ((registry, name) for kind in KINDS for registry in [store.registry(kind)] for name in registry.names())
    for registry, name in named:
        for version in registry.versions(name):
            if version.archived and not version.aliases:
                layers = store.get_manifest(version.digest, str(version)).layers
                if None in store.blobs.sizes([layer.digest for layer in layers]).values():
                    found.add(version.digest)
    return found


def evict(store: Store, versions: list[Version], archive: Archive, kind: str = "artifact") -> Collected:
    """Delete the layers of versions from Redis, after reading each back from the archive and checking it.

    Layers that another version needs stay, unless that version was evicted too. Manifests stay.

    Raises: Missing, Corrupt, ArchiveError: nothing was deleted.   Invalid: an alias points to one of the versions.
    """
    for version in versions:
        if version.aliases:
            raise Invalid(
                f"{version} is {version.name}@{version.aliases[0]}; only versions without aliases are evicted"
            )
        manifest = archive.manifest(version.digest, str(version))
        problems = [p for blob in manifest.blobs() for p in _problems(store, version, blob, archive)]
        if problems:
            raise Conflict(f"{problems[0].text}; nothing was evicted")
    evicted = {version.digest for version in versions}
    registry = store.registry(kind)
    for version in versions:
        registry.note(
            version.name, "evict", {"version": version.version, "url": archive.url}, {version.version: archive.url}
        )
    return collect(store, evicted=evicted | _evicted(store))
