"""Writing one checkpoint: its blobs, then its manifest, then the pointer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from redisai_py.artifacts import Descriptor, Lease, Store, Version, digest_of
from redisai_py.training.packing import Buffers
from redisai_py.training.retention import Retention

__all__ = ["FORMAT", "KIND", "STATE", "Snapshot", "write"]

KIND = "run"
FORMAT = "redisai.checkpoint/1"
STATE = "state.json"
_TENSORS_TYPE = "application/vnd.cncf.model.weight.v1.raw"
_STATE_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
_AT_A_TIME = 16 * 1024 * 1024


@dataclass
class Snapshot:
    """A copied state.   structure, described: results of `take` and `describe`.   blobs: of the tensors.
    buffers: where the blobs are returned, one by one, once sent.
    """

    step: int
    metrics: Mapping[str, float]
    structure: Any
    described: list[dict[str, Any]]
    blobs: list[memoryview]
    buffers: Buffers
    size: int = field(init=False)
    """Size of the blobs in bytes."""
    missing: int | None = None
    """After a failed save: bytes of the blobs that are not in Redis, None if unknown."""

    def __post_init__(self) -> None:
        self.size = sum(len(blob) for blob in self.blobs)


def write(store: Store, run: str, snapshot: Snapshot, aliases: Sequence[str], retention: Retention) -> Version:
    """Write a checkpoint, and delete surplus ones. The snapshot's buffers are returned as they are sent.

    Raises: Superseded: another process continues this run.   redis.RedisError: everything sent was deleted again.
    """
    retention.check()
    with store.lease() as lease:
        sent: dict[str, int] = {}
        try:
            document = {"run": run, "state": snapshot.structure, "tensors": snapshot.described}
            text = json.dumps(document, separators=(",", ":")).encode()
            state = store.put_layer(text, _STATE_TYPE, STATE, lease)
            sent[state.digest] = state.size
            layers = [state, *_layers(store, snapshot, lease, sent)]
            metrics = {name: _as_json(value) for name, value in snapshot.metrics.items()}
            config = {"format": FORMAT, "step": snapshot.step, "run": run, "metrics": metrics}
            manifest = store.manifest(config, layers, lease)
            retention.check()
            version = store.commit(
                KIND, run, manifest, lease, version=snapshot.step, aliases=aliases, replace=True, bytes=snapshot.size
            )
        except redis.RedisError:
            retention.take_back(sent)
            _count_missing(store, snapshot, sent)
            raise
    retention.wrote(version, manifest, aliases, snapshot.size)
    return version


def _layers(store: Store, snapshot: Snapshot, lease: Lease, sent: dict[str, int]) -> list[Descriptor]:
    """Send the missing blobs in groups of 16 MiB. A thread hashes the next group meanwhile."""
    layers: list[Descriptor] = []
    with ThreadPoolExecutor(1, "checkpoint digests") as hashing:
        groups = _groups(snapshot.blobs)
        coming = hashing.submit(_hashed, next(groups, []))
        while group := coming.result():
            coming = hashing.submit(_hashed, next(groups, []))
            sent |= {digest: len(blob) for digest, blob in group}  # a failed group may arrive in part
            store.blobs.put_hashed(group, lease)
            for digest, blob in group:
                title = f"tensors-{len(layers):05d}.safetensors"
                layers.append(Descriptor.of_content(_TENSORS_TYPE, title, (digest, len(blob)), (digest, len(blob))))
                snapshot.buffers.give(blob)
    return layers


def _hashed(group: Sequence[memoryview]) -> list[tuple[str, memoryview]]:
    return [(digest_of(blob), blob) for blob in group]


def _count_missing(store: Store, snapshot: Snapshot, sent: Mapping[str, int]) -> None:
    wanted = {**sent, **{digest_of(blob): len(blob) for blob in snapshot.blobs}}
    with suppress(redis.RedisError):
        there = store.blobs.sizes(list(wanted))
        snapshot.missing = sum(size for digest, size in wanted.items() if there[digest] != size)


def _groups(blobs: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    group: list[memoryview] = []
    for blob in blobs:
        if group and sum(map(len, group)) + len(blob) > _AT_A_TIME:
            yield group
            group = []
        group.append(blob)
    if group:
        yield group


def _as_json(value: float) -> float | str:
    """JSON numbers cannot be NaN or infinite; such values become strings."""
    return value if value - value == 0 else str(value)
