"""Which checkpoints of a run are kept, and which process may write them.

The header of a checkpoint's blobs names their run, so no other name reaches them. The blobs of a dropped checkpoint
can be deleted immediately, without searching for other users.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis

from redisai_py.artifacts import ArtifactError, Conflict, Manifest, Missing, Store, Version, discard

__all__ = ["Retention", "Superseded"]

_KIND = "run"
_ATTEMPT = "attempt"
_logger = logging.getLogger("redisai_py.training")


class Superseded(Conflict):
    """Another process continues this run, because it took this process for dead."""


class Retention:
    """keep: number of newest checkpoints to keep, None for all."""

    def __init__(self, store: Store, run: str, keep: int | None) -> None:
        self._store = store
        self._run = run
        self._keep = keep
        self._summary = store.keys.summary(run)
        self._attempt: int | None = None

    def check(self) -> None:
        """Check that no other process has started writing this run's checkpoints.

        Raises: Superseded: another process has.   redis.RedisError.
        """
        if self._attempt is None:
            self._attempt = int(self._store.redis.hincrby(self._summary, _ATTEMPT, 1))
        found: Any = self._store.redis.hget(self._summary, _ATTEMPT)
        # A Redis that lost its last second may have a lower count than this process has seen.
        if found is not None and int(found) > self._attempt:
            raise Superseded(f"another process goes on with run {self._run}; this one must not write its checkpoints")

    def wrote(self, version: Version, manifest: Manifest, aliases: Sequence[str], size: int) -> None:
        """Record a checkpoint in the summary, and delete surplus ones. Failures are logged."""
        try:
            fields: dict[Any, Any] = {"checkpoint": version.version, "checkpoint.bytes": size}
            fields |= {f"checkpoint.{alias}": version.version for alias in aliases if alias != "latest"}
            self._store.redis.hset(self._summary, mapping=fields)
            self._forget(version)
        except (redis.RedisError, ArtifactError) as error:
            _logger.warning("run %s: old checkpoints were not removed: %s", self._run, error)

    def _forget(self, newest: Version) -> None:
        """Delete checkpoints beyond `keep`, and those after the newest one, left by a run that was rolled back."""
        if self._keep is None:
            return
        registry = self._store.registry(_KIND)
        versions = registry.versions(self._run)
        before = [one for one in versions if one.version <= newest.version]
        kept = {one.version for one in before[-self._keep :]} | {one.version for one in versions if one.aliases}
        going = [one for one in versions if one.version not in kept]
        if not going:
            return
        doomed = self._blobs(going)
        registry.remove(self._run, [one.version for one in going])
        discard(self._store, doomed - self._blobs(one for one in versions if one.version in kept))

    def take_back(self, sent: Iterable[str]) -> None:
        """Delete what a failed save has sent, because a full Redis needs the space."""
        with suppress(redis.RedisError, ArtifactError):
            needed: set[str] = set()
            with suppress(Missing):
                needed = self._blobs(self._store.registry(_KIND).versions(self._run))
            keys = [self._store.keys.blob(digest) for digest in sent if digest not in needed]
            if keys:
                self._store.redis.unlink(*keys)

    def _blobs(self, versions: Iterable[Version]) -> set[str]:
        found: set[str] = set()
        for version in versions:
            found.add(version.digest)
            with suppress(Missing):  # without its manifest, its blobs are unknown
                found |= {blob.digest for blob in self._store.get_manifest(version.digest, str(version)).blobs()}
        return found
