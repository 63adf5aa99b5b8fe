"""Shards in Redis: rows in, blobs out, and back. Read many at a time, each checked against its digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redisai_py.artifacts import Corrupt, Descriptor, Invalid, Lease, Missing, Store
from redisai_py.datasets.layout import SHARD_TYPE, Columns, Schema, decode_shard, encode_shard, row_count

__all__ = ["SHARD_BYTES", "Shard", "read_shards", "write_shards"]

SHARD_BYTES = 1024 * 1024
"""Bytes of a shard's columns, before compression: what reads fastest (docs/training.md has the measurement)."""


@dataclass(frozen=True)
class Shard:
    """Some rows of a data set.   number: among its shards.   split: train, test, ..., or empty."""

    number: int
    rows: int
    split: str
    layer: Descriptor


def write_shards(
    store: Store,
    schema: Schema,
    columns: Columns,
    lease: Lease,
    *,
    split: str = "",
    first: int = 0,
    shard_bytes: int = SHARD_BYTES,
    compress: bool = True,
) -> list[Shard]:
    """Cut rows into shards and store them.

    Args:   columns: values; all of them are checked before the first shard is written.   first: number of the first.
    Raises: Invalid: they do not fit the schema.   redis.RedisError.
    """
    stored = schema.check(columns)
    rows = row_count(stored)
    width = sum(values.nbytes for values in stored.values()) / max(1, rows)
    per_shard = max(1, int(shard_bytes / max(1.0, width)))
    shards: list[Shard] = []
    for at in range(0, rows, per_shard):
        part = {name: values[at : at + per_shard] for name, values in stored.items()}
        number = first + len(shards)
        title = f"shard-{number:06d}.safetensors"
        layer = store.put_layer(encode_shard(part), SHARD_TYPE, title, lease, compress=compress)
        shards.append(Shard(number, row_count(part), split, layer))
    return shards


def read_shards(
    store: Store, what: str, schema: Schema, shards: Sequence[Shard], columns: Sequence[str] | None = None
) -> Iterator[Columns]:
    """The columns of shards, read in one round trip.

    Args:   what: names the data set in errors.   columns: only these.
    Raises: Missing, Corrupt: naming data set, shard and digest.   Invalid: a shard is not of this schema.
    """
    blobs = store.blobs.get_many([shard.layer.digest for shard in shards])
    for shard in shards:
        where = f"{what}, shard {shard.number}"
        try:
            data = next(blobs)
        except Missing:
            raise Missing(
                f"{where}: blob {shard.layer.digest} is not in Redis; pull the data set from its archive"
            ) from None
        except Corrupt as error:
            raise Corrupt(where, error.expected, error.found, "Redis") from None
        yield decode_shard(where, _content(where, shard.layer, data), schema, shard.rows, columns)


def _content(where: str, layer: Descriptor, data: bytes) -> bytes:
    """The stored bytes decompressed. Their digest was checked, so what is left to check is the length."""
    if layer.compressed:
        import zstandard  # of the extra `data`; a data set that is not compressed is read without it

        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=layer.content_size)
        except zstandard.ZstdError as error:
            raise Invalid(f"{where} cannot be decompressed: {error}") from None
    if len(data) != layer.content_size:
        raise Invalid(f"{where} has {len(data)} bytes; its manifest says {layer.content_size}")
    return data
