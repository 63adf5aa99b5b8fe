"""Shards in Redis: rows to blobs and back, many at a time, each checked against its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redisai_py.artifacts import (
    Archive,
    ArtifactError,
    Corrupt,
    Descriptor,
    Invalid,
    Lease,
    Malformed,
    Missing,
    Store,
)
from redisai_py.artifacts.digest import Buffer, check_content
from redisai_py.artifacts.errors import needing
from redisai_py.artifacts.strings import ReceiveBuffer
from redisai_py.datasets.layout import SHARD_TYPE, Columns, Schema, decode_shard, encode_shard, row_count

__all__ = [
    "SHARD_BYTES",
    "Shard",
    "archived_shards",
    "read_shards",
    "shard_size",
    "shard_title",
    "write_stored",
]

SHARD_BYTES = 1024 * 1024
"""Size of a shard's columns in bytes, before compression: the fastest to read (figures in docs/training-data.md)."""
_MOST_SHARDS = 4096
"""Maximum number of shards per version. Beyond it shards grow, because registries limit a manifest to 4 MiB."""
_HEADER = 1 << 20
_LARGEST = 1 << 30
"""Maximum size of a shard in bytes. A few bytes of zstd may claim any size."""


@dataclass(frozen=True)
class Shard:
    """Some rows of a data set.

    number: in the data set.   split: train, test, ..., or empty.   at: its stream id in the tail, if it was appended.
    """

    number: int
    rows: int
    split: str
    layer: Descriptor
    at: str = ""


def shard_size(total: int, wanted: int = SHARD_BYTES) -> int:
    """Shard size in bytes for data of `total` bytes."""
    return max(wanted, -(-total // _MOST_SHARDS))


def write_stored(
    store: Store,
    stored: Mapping[str, Any],
    lease: Lease,
    split: str = "",
    first: int = 0,
    shard_bytes: int = SHARD_BYTES,
    compress: bool = True,
) -> Iterator[Shard]:
    """Cut rows into shards and store them; yields each shard once it is stored.

    Args:   stored: columns in stored form, from `Schema.check`.   first: number of the first shard.
    Raises: Invalid: a row is too large.   redis.RedisError.
    """
    rows = row_count(stored)
    total = sum(values.nbytes for values in stored.values())
    per_shard = max(1, int(shard_size(total, shard_bytes) / max(1.0, total / max(1, rows))))
    for number, at in enumerate(range(0, rows, per_shard), first):
        part = {name: values[at : at + per_shard] for name, values in stored.items()}
        if sum(values.nbytes for values in part.values()) > _LARGEST - _HEADER:
            raise Invalid(f"a row has more bytes than a shard may have, {_LARGEST}")
        layer = store.put_layer(encode_shard(part), SHARD_TYPE, shard_title(number), lease, compress=compress)
        yield Shard(number, row_count(part), split, layer)


def shard_title(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.safetensors"


def read_shards(
    store: Store,
    what: str,
    schema: Schema,
    shards: Sequence[Shard],
    columns: Sequence[str] | None = None,
    archive: Callable[[], Archive | None] | None = None,
    buffer: ReceiveBuffer | None = None,
) -> Iterator[Columns]:
    """The columns of shards, read in one round trip.

    Args:   what: name of the data set in errors.   columns: only these.
            archive: returns the source of shards that are missing or damaged in Redis.
            buffer: to read into; each shard overwrites the columns of the previous one.
    Raises: Missing, Corrupt: naming data set, shard and digest.   Invalid: a shard is not of this schema.
    """
    if not shards:
        return
    found = store.blobs.read_many([(shard.layer.digest, shard.layer.size) for shard in shards], buffer)
    for shard, value in zip(shards, found, strict=True):
        where = f"{what}, shard {shard.number}"
        try:
            data = _checked(store, where, shard, value)
        except (Missing, Corrupt) as error:
            source = archive() if archive is not None else None
            if source is None:
                raise
            data = _archived(source, where, shard, error)
        yield decode_shard(where, _content(where, shard.layer, data), schema, shard.rows, columns)


def archived_shards(
    archive: Archive, what: str, schema: Schema, shards: Sequence[Shard], columns: Sequence[str] | None = None
) -> Iterator[Columns]:
    """The same from an archive, one shard after the other, whatever Redis holds."""
    for shard in shards:
        where = f"{what}, shard {shard.number}"
        data = archive.get(shard.layer.digest, shard.layer.size, where)
        yield decode_shard(where, _content(where, shard.layer, data), schema, shard.rows, columns)


def _checked(store: Store, where: str, shard: Shard, data: Any) -> Buffer:
    digest = shard.layer.digest
    try:
        if data is None:  # missing, or so large that it is stored in parts
            return b"".join(store.blobs.stream(digest))
        check_content(where, digest, data, "Redis")
        read: Buffer = data
        return read
    except Missing:
        raise Missing(f"{where}: blob {digest} is not in Redis; pull the data set from its archive") from None
    except Corrupt as error:
        raise Corrupt(where, error.expected, error.found, "Redis") from None


def _archived(archive: Archive, where: str, shard: Shard, error: ArtifactError) -> bytes:
    try:
        return archive.get(shard.layer.digest, shard.layer.size, where)
    except ArtifactError as other:
        # Keep the class of the first error: callers that catch a missing shard need not know of archives.
        error.args = (f"{error}; and from its archive: {other}",)
        raise error from None


def _content(where: str, layer: Descriptor, data: Buffer) -> Buffer:
    """The decompressed bytes of a layer. The digest was checked before, so only the length is checked here."""
    if layer.content_size > _LARGEST:
        raise Malformed(f"{where} is said to have {layer.content_size} bytes; at most {_LARGEST} are read")
    if layer.compressed:
        data = _decompressed(where, layer, data)
    if len(data) != layer.content_size:
        raise Malformed(f"{where} has {len(data)} bytes; its manifest says {layer.content_size}")
    return data


def _decompressed(where: str, layer: Descriptor, data: Buffer) -> bytes:
    with needing(f"{where} is compressed, and reading it needs zstandard", "data"):
        import zstandard  # a data set that is not compressed is read without it
    try:
        announced = zstandard.frame_content_size(data)  # takes the place of the limit, where a frame says it
        if announced not in (-1, layer.content_size):
            raise Malformed(f"{where} unpacks to {announced} bytes; its manifest says {layer.content_size}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=layer.content_size)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Malformed(f"{where} cannot be decompressed: {error}") from None
