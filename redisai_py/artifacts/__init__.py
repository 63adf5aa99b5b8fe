"""Artifacts: trained models with their evidence, stored in Redis under digests, archived, shared and deployed.

`Artifacts` and `AsyncArtifacts` publish and deploy models. `Store` is the layer below, shared by artifacts, data sets
and checkpoints: blobs, manifests, names. The server does not import this package. It needs redis-py; archives need the
extra `archive`, compression and predictions the extra `data`.
"""

from __future__ import annotations

from redisai_py.artifacts.api import Artifact, Artifacts, AsyncArtifacts
from redisai_py.artifacts.archive import Archive
from redisai_py.artifacts.blobs import PART_SIZE, Blobs
from redisai_py.artifacts.collect import Collected, Root, collect, discard, reachable, roots
from redisai_py.artifacts.deploy import Deployed, Settings
from redisai_py.artifacts.digest import digest_of
from redisai_py.artifacts.errors import (
    AliasMoved,
    ArchiveError,
    ArtifactError,
    Conflict,
    Corrupt,
    Invalid,
    Malformed,
    Missing,
    NotParity,
)
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.manifest import Descriptor, Manifest
from redisai_py.artifacts.models import ModelFile, model_file
from redisai_py.artifacts.names import KINDS, Keys, Reference
from redisai_py.artifacts.parity import Parity, Tolerance
from redisai_py.artifacts.predictions import Predictions
from redisai_py.artifacts.publish import Contents, environment
from redisai_py.artifacts.registry import LogEntry, Registry, Version
from redisai_py.artifacts.store import Store

__all__ = [
    "KINDS",
    "PART_SIZE",
    "AliasMoved",
    "Archive",
    "ArchiveError",
    "Artifact",
    "ArtifactError",
    "Artifacts",
    "AsyncArtifacts",
    "Blobs",
    "Collected",
    "Conflict",
    "Contents",
    "Corrupt",
    "Deployed",
    "Descriptor",
    "Invalid",
    "Keys",
    "Lease",
    "LogEntry",
    "Malformed",
    "Manifest",
    "Missing",
    "ModelFile",
    "NotParity",
    "Parity",
    "Predictions",
    "Reference",
    "Registry",
    "Root",
    "Settings",
    "Store",
    "Tolerance",
    "Version",
    "collect",
    "digest_of",
    "discard",
    "environment",
    "model_file",
    "reachable",
    "roots",
]
