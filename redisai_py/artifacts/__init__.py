"""Artifacts: what was trained, kept under its digest in Redis, archived, shared and deployed.

`Store` is what artifacts, datasets and checkpoints are built from: blobs, manifests, names. Nothing of the server
imports this package; it needs redis-py, and for archives the extra `archive`.
"""

from __future__ import annotations

from redisai_py.artifacts.blobs import PART_SIZE, Blobs
from redisai_py.artifacts.collect import Collected, Root, collect, reach, roots
from redisai_py.artifacts.digest import digest_of
from redisai_py.artifacts.errors import (
    AliasMoved,
    ArchiveError,
    ArtifactError,
    Conflict,
    Corrupt,
    Invalid,
    Missing,
    NotParity,
)
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.manifest import Descriptor, Manifest
from redisai_py.artifacts.names import KINDS, Keys, Reference
from redisai_py.artifacts.registry import LogEntry, Registry, Version
from redisai_py.artifacts.store import Store

__all__ = [
    "KINDS",
    "PART_SIZE",
    "AliasMoved",
    "ArchiveError",
    "ArtifactError",
    "Blobs",
    "Collected",
    "Conflict",
    "Corrupt",
    "Descriptor",
    "Invalid",
    "Keys",
    "Lease",
    "LogEntry",
    "Manifest",
    "Missing",
    "NotParity",
    "Reference",
    "Registry",
    "Root",
    "Store",
    "Version",
    "collect",
    "digest_of",
    "reach",
    "roots",
]
