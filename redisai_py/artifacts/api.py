"""`Artifacts`: every operation in one blocking object; `AsyncArtifacts`: the same for asyncio.

The asyncio class runs the blocking one on threads. Hashing, compressing, reading files and moving hundreds of megabytes
needs a thread in any case, and a single implementation has no twin to drift from (ADR 0021).
"""

from __future__ import annotations

import asyncio
import functools
import html
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from redisai_py.artifacts import inspect
from redisai_py.artifacts.archive import Archive
from redisai_py.artifacts.collect import Collected, collect
from redisai_py.artifacts.connection import AnyClient
from redisai_py.artifacts.deploy import Deployed, Settings, deploy, rollback, verify_version
from redisai_py.artifacts.errors import Missing
from redisai_py.artifacts.manifest import Descriptor, Manifest, check_title
from redisai_py.artifacts.parity import Parity, Tolerance
from redisai_py.artifacts.publish import Contents, publish
from redisai_py.artifacts.registry import LogEntry, Version
from redisai_py.artifacts.store import Store
from redisai_py.artifacts.transfer import Pulled, Pushed, collect_archive, pull, push, remove_archived
from redisai_py.client.call import Progress
from redisai_py.client.files import replacing

__all__ = ["Artifact", "Artifacts", "AsyncArtifacts"]

P = ParamSpec("P")
T = TypeVar("T")

AnyArchive = Archive | str | os.PathLike[str]
"""An archive, or its URL."""


def _archive(given: AnyArchive) -> Archive:
    return given if isinstance(given, Archive) else Archive(given)


class Artifact:
    """One version, for reading."""

    def __init__(self, store: Store, version: Version, manifest: Manifest) -> None:
        self._store = store
        self.version = version
        self.manifest = manifest

    @property
    def titles(self) -> list[str]:
        """File names of the version."""
        return [layer.title for layer in self.manifest.layers]

    def _repr_html_(self) -> str:
        """Show the files and the digest in notebooks."""
        rows = "".join(
            f"<tr><td>{html.escape(layer.title)}</td><td>{layer.content_size:,}</td></tr>"
            for layer in self.manifest.layers
        )
        aliases = "".join(f" @{html.escape(alias)}" for alias in self.version.aliases)
        head = f"<b>{html.escape(str(self.version))}</b>{aliases} <code>{self.version.digest}</code>"
        return f"<p>{head}</p><table><tr><th>file</th><th>bytes</th></tr>{rows}</table>"

    def layer(self, title: str) -> Descriptor:
        """The descriptor of one file. Raises: Missing."""
        for layer in self.manifest.layers:
            if layer.title == title:
                return layer
        raise Missing(f"{self.version} has no {title}; it has {', '.join(self.titles)}")

    def read(self, title: str, limit: int | None = None) -> bytes:
        """The content of one file, checked. limit: in bytes. Raises: Missing, Corrupt, Invalid."""
        return self._store.read(self.layer(title), limit)

    def save(self, directory: str | os.PathLike[str], titles: Sequence[str] | None = None) -> list[Path]:
        """Write files, by default all, each completely or not at all. Raises: Missing, Corrupt, OSError."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for title in titles if titles is not None else self.titles:
            path = target / check_title(title)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.writelines(self._store.stream(self.layer(title)))
            written.append(path)
        return written


class Artifacts:
    """Artifacts in one Redis.

    client: a redis-py client, blocking or asyncio (redisai_py's too), or a URL. Deploying and verifying need
            `redisai serve`; everything else works with any Redis.
    prefix: prefix of all keys.   actor: name for the log; by default REDISAI_ACTOR or user@host.

    A reference is NAME, NAME:7 or NAME@ALIAS. Every method may raise redis.RedisError and subclasses of ArtifactError.
    """

    def __init__(self, client: AnyClient, prefix: str = "ai:", actor: str | None = None) -> None:
        self.store = Store(client, prefix, actor)
        self._registry = self.store.registry("artifact")

    # -- publish, inspect ------------------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        contents: Contents,
        aliases: Sequence[str] = (),
        verify: bool = False,
        tolerance: Tolerance | None = None,
    ) -> Version:
        """Publish contents as a version; equal contents are the same version.

        Args:   verify: let the server recompute the predictions first.
        Raises: NotParity: nothing was published.   Invalid: a pickle, not a model, or a bad name.
        """
        return publish(self.store, name, contents, aliases, verify, tolerance)[0]

    def names(self) -> list[str]:
        """All names. O(keys of the database)."""
        return self._registry.names()

    def versions(self, name: str) -> list[Version]:
        """All versions of a name. Raises: Missing."""
        return self._registry.versions(name)

    def get(self, reference: str) -> Artifact:
        """One version, for reading. Raises: Missing, Corrupt."""
        return Artifact(self.store, *self.store.open("artifact", reference))

    def show(self, reference: str) -> inspect.Overview:
        """A summary of one version. Raises: Missing, Corrupt."""
        return inspect.overview(self.store, reference)

    def diff(self, one: str, other: str) -> inspect.Difference:
        """Compare two versions. Raises: Missing, Corrupt."""
        return inspect.difference(self.store, one, other)

    def log(self, name: str, count: int | None = None) -> list[LogEntry]:
        """Log entries of a name, newest first."""
        return self._registry.log(name, count)

    def du(self) -> inspect.Usage:
        """Memory used in Redis, by name."""
        return inspect.usage(self.store)

    # -- promote, deploy -------------------------------------------------------------------------------------------

    def promote(self, reference: str, alias: str, expected: int | EllipsisType | None = ...) -> Version:
        """Point an alias to a version. Raises: AliasMoved: somebody else moved it first; see `Registry.promote`."""
        version = self._registry.resolve(reference)
        return self._registry.promote(version.name, version.version, alias, expected)

    def demote(self, name: str, alias: str) -> None:
        """Remove an alias. Raises: Missing."""
        self._registry.demote(name, alias)

    def deploy(
        self,
        reference: str,
        key: str,
        settings: Settings | None = None,
        model: str | None = None,
        verify: bool = False,
        tolerance: Tolerance | None = None,
        archive: AnyArchive | None = None,
        progress: Progress | None = None,
    ) -> Deployed:
        """Store a version's model under a key; see `deploy.deploy`. Raises: NotParity, Corrupt: nothing was changed."""
        source = None if archive is None else _archive(archive)
        return deploy(self.store, reference, key, settings, model, verify, tolerance, source, progress=progress)

    def rollback(self, name: str, key: str, verify: bool = False) -> Deployed:
        """Deploy the key's previous version again. Raises: Missing: the log has no previous one."""
        return rollback(self.store, name, key, verify)

    def recompute(self, reference: str, tolerance: Tolerance | None = None) -> list[Parity]:
        """Let the server recompute the version's stored predictions. Raises: NotParity, Invalid."""
        version, manifest = self.store.open("artifact", reference)
        return verify_version(self.store, version, manifest, tolerance)

    # -- archive, delete -------------------------------------------------------------------------------------------

    def push(
        self, references: Sequence[str], archive: AnyArchive, kind: str = "artifact", progress: Progress | None = None
    ) -> Pushed:
        """Copy versions into an archive; see `transfer.push`."""
        return push(self.store, _archive(archive), references, kind, progress)

    def pull(
        self,
        archive: AnyArchive,
        references: Sequence[str] | None = None,
        kind: str = "artifact",
        check: bool = False,
        progress: Progress | None = None,
    ) -> Pulled:
        """Copy versions from an archive; see `transfer.pull`."""
        return pull(self.store, _archive(archive), references, kind, check, progress)

    def verify(
        self,
        references: Sequence[str] | None = None,
        archive: AnyArchive | None = None,
        progress: Progress | None = None,
    ) -> list[inspect.Problem]:
        """Read every byte of versions, by default all, in Redis or in an archive. Returns: the problems found."""
        found = self._registry.select(references if references is not None else self.names())
        return inspect.verify(self.store, found, None if archive is None else _archive(archive), progress)

    def rm(self, references: Sequence[str], archive: AnyArchive | None = None) -> list[Version]:
        """Remove versions, all of NAME or one, from Redis or from the archive if given. `gc` frees their bytes.

        Raises: Conflict: an alias points to one.   Missing.
        """
        if archive is None:
            chosen = self._registry.select(references)
            self._registry.remove_all(chosen)
            return chosen
        source = _archive(archive)
        index, _ = source.index()
        removed: dict[str, Version] = {}
        for text in references:
            for entry in index.select("artifact", text):
                remove_archived(source, "artifact", entry.name, [entry.version])
                removed[str(entry)] = Version(entry.name, entry.version, entry.digest)
        return list(removed.values())

    def gc(self, dry_run: bool = False, archive: AnyArchive | None = None, older_s: float = 3600) -> Collected:
        """Delete unreferenced blobs from Redis, or from the archive if given: there only those written more than
        `older_s` seconds ago.
        """
        if archive is not None:
            return collect_archive(_archive(archive), older_s, dry_run)
        return collect(self.store, dry_run)

    def evict(self, references: Sequence[str], archive: AnyArchive, kind: str = "artifact") -> Collected:
        """Delete layers from Redis that the archive has; see `inspect.evict`."""
        return inspect.evict(self.store, self.store.registry(kind).select(references), _archive(archive), kind)

    def close(self) -> None:
        """Close the connections opened here; those of the given client stay open."""
        self.store.redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _threaded(
    method: Callable[Concatenate[Artifacts, P], T],
) -> Callable[Concatenate[AsyncArtifacts, P], Coroutine[Any, Any, T]]:
    """The method as a coroutine function."""

    async def run(self: AsyncArtifacts, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self.blocking, *args, **kwargs)

    functools.update_wrapper(run, method)
    return run


class AsyncArtifacts:
    """`Artifacts` for asyncio: the same methods as coroutines.

    If a task is cancelled, it stops waiting, but the operation continues on its thread until it is done.
    """

    def __init__(self, client: AnyClient, prefix: str = "ai:", actor: str | None = None) -> None:
        self.blocking = Artifacts(client, prefix, actor)

    publish = _threaded(Artifacts.publish)
    names = _threaded(Artifacts.names)
    versions = _threaded(Artifacts.versions)
    get = _threaded(Artifacts.get)
    show = _threaded(Artifacts.show)
    diff = _threaded(Artifacts.diff)
    log = _threaded(Artifacts.log)
    du = _threaded(Artifacts.du)
    promote = _threaded(Artifacts.promote)
    demote = _threaded(Artifacts.demote)
    deploy = _threaded(Artifacts.deploy)
    rollback = _threaded(Artifacts.rollback)
    recompute = _threaded(Artifacts.recompute)
    push = _threaded(Artifacts.push)
    pull = _threaded(Artifacts.pull)
    verify = _threaded(Artifacts.verify)
    rm = _threaded(Artifacts.rm)
    gc = _threaded(Artifacts.gc)
    evict = _threaded(Artifacts.evict)
    close = _threaded(Artifacts.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
