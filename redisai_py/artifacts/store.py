"""The foundation of artifacts, data sets and checkpoints: layers, manifests and names in one Redis.

    with store.lease() as lease:
        layer = store.put_layer(data, "application/vnd.cncf.model.dataset.v1.raw", "shard-0.safetensors", lease)
        version = store.commit("dataset", "clicks", store.manifest(config, [layer], lease), lease)

Blobs come first, the name last. Nobody sees anything until `commit` has returned, and the leftovers of a killed writer
are collected an hour later.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import redis

from redisai_py.artifacts.blobs import PART_SIZE, Blobs
from redisai_py.artifacts.compression import Packed, decompressed
from redisai_py.artifacts.connection import AnyClient, blocking_client
from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Conflict, Corrupt, Invalid, Malformed, Missing, reading
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.manifest import (
    CONFIG_TYPE,
    MAX_MANIFEST,
    Descriptor,
    Manifest,
    decode_json,
    encode_json,
)
from redisai_py.artifacts.names import Keys, Reference
from redisai_py.artifacts.registry import Registry, Version

__all__ = ["Source", "Store", "chunks_of"]

Source = Buffer | os.PathLike[str] | Iterable[Buffer]
"""Bytes, the path of a file, or chunks of bytes."""


def chunks_of(source: Source) -> Iterable[Buffer]:
    """The source in chunks. Raises: OSError.

    A file is read, not mapped, because it may be changed or truncated between hashing and sending.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return [source]
    return _read(source) if isinstance(source, os.PathLike) else source


def _read(path: os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(PART_SIZE):
            yield chunk


class Store:
    """Blobs, manifests and names in one Redis.

    client: a redis-py client, blocking or asyncio, or a URL; of Redis or of `redisai serve`.
    prefix: prefix of all keys.   actor: name for the logs; by default REDISAI_ACTOR or user@host.
    Thread-safe, except for leases.
    """

    def __init__(self, client: AnyClient, prefix: str = "ai:", actor: str | None = None) -> None:
        self.redis: redis.Redis = blocking_client(client)
        self.keys = Keys(prefix)
        self.actor = actor
        self.blobs = Blobs(self.redis, self.keys)

    def lease(self) -> Lease:
        """A lease for one writer: use it as a context manager around all writes up to `commit`."""
        return Lease(self.redis, self.keys)

    def registry(self, kind: str) -> Registry:
        """The names of a kind: artifact, dataset or run."""
        return Registry(self.redis, self.keys, kind, self.actor)

    # -- writing -------------------------------------------------------------------------------------------------------

    def put_layer(
        self,
        source: Source,
        media_type: str,
        title: str,
        lease: Lease,
        compress: bool = True,
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Store one file of a version.

        Args:    source: bytes, a path, or chunks; holds at most about 64 MiB at a time.
                 title: plain file name.   compress: try zstd, and keep the result if it saves a tenth.
        Raises:  Invalid: not a valid title.   OSError.   redis.RedisError.
        """
        packed = Packed(chunks_of(source), compress)
        stored = self.blobs.put_stream(packed, lease)
        content = (packed.content.digest, packed.content.size)
        return Descriptor.of_content(media_type, title, stored, content, **(annotations or {}))

    def put_manifest(self, manifest: Manifest, lease: Lease) -> str:
        """Store a manifest. Returns: its digest."""
        return self.blobs.put(manifest.encode(), lease)

    def manifest(
        self,
        config: Any,
        layers: Sequence[Descriptor],
        lease: Lease,
    ) -> Manifest:
        """A manifest of stored layers and of a config (any JSON), which this method stores.

        Raises: Invalid: two layers have the same title.
        """
        titles = [layer.title for layer in layers]
        for title in titles:
            if titles.count(title) > 1:
                raise Invalid(f"two layers have the title {title}")
        data = encode_json(config)
        return Manifest(Descriptor(CONFIG_TYPE, self.blobs.put(data, lease), len(data)), tuple(layers))

    def commit(
        self,
        kind: str,
        name: str,
        manifest: Manifest,
        lease: Lease,
        version: int | None = None,
        aliases: Sequence[str] = (),
        replace: bool = False,
        **note: str | int,
    ) -> Version:
        """Make a manifest a version of a name; see `Registry.add`.

        Raises: Conflict: one of its blobs was deleted meanwhile, or the number is taken.
        """
        digest = self.put_manifest(manifest, lease)
        self.blobs.confirm([(blob.digest, blob.size) for blob in manifest.blobs()], lease)
        return self.registry(kind).add(name, digest, version, aliases, replace, **note)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_manifest(self, digest: str, what: str | None = None) -> Manifest:
        """A manifest. what: its name in errors. Raises: Missing, Corrupt, Malformed."""
        name = what or f"manifest {digest}"
        try:
            with reading():
                return Manifest.decode(name, self.blobs.get(digest, MAX_MANIFEST))
        except Missing:
            raise Missing(f"{name}: its manifest {digest} is not in Redis") from None
        except Corrupt as error:
            raise Corrupt(f"{name}: manifest", error.expected, error.found, "Redis") from None

    def open(self, kind: str, reference: str | Reference) -> tuple[Version, Manifest]:
        """A version and its manifest. Raises: Missing, Corrupt, Malformed; Invalid: this is not a reference."""
        version = self.registry(kind).resolve(reference)
        return version, self.get_manifest(version.digest, str(version))

    @reading()
    def config(self, manifest: Manifest) -> Any:
        """The config's JSON. Raises: Missing, Corrupt, Malformed."""
        return decode_json("config", self.read(manifest.config, MAX_MANIFEST))

    def stream(self, layer: Descriptor) -> Iterator[bytes]:
        """The content of a layer in pieces of at most 64 MiB, each checked before it is yielded.

        Raises: Missing, Corrupt, each naming the layer.
        """
        stored = self._stored(layer)
        if not layer.compressed:
            return stored
        return decompressed(layer.title, stored, layer.content_digest, layer.content_size)

    def read(self, layer: Descriptor, limit: int | None = None) -> bytes:
        """The content of a layer. Raises: Missing, Corrupt; Malformed: larger than the limit, in bytes."""
        if limit is not None and layer.content_size > limit:
            raise Malformed(f"{layer.title} has {layer.content_size} bytes; the maximum is {limit}")
        return b"".join(self.stream(layer))

    def _stored(self, layer: Descriptor) -> Iterator[bytes]:
        size = 0
        try:
            for piece in self.blobs.stream(layer.digest):
                size += len(piece)
                if size > layer.size:
                    raise Malformed(f"layer {layer.title} has more than the {layer.size} bytes its manifest says")
                yield piece
        except Missing as error:
            raise Missing(f"layer {layer.title}: {error}") from None
        except Corrupt as error:
            raise Corrupt(f"layer {layer.title}", error.expected, error.found, "Redis") from None
        if size != layer.size:
            raise Conflict(f"layer {layer.title} has {size} bytes, and its manifest says {layer.size}")
