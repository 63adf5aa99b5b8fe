"""Blobs in Redis: immutable, durable bytes under their SHA-256, stored once, whoever writes them.

A blob of at most 64 MiB is one string. A larger one is a short list of parts, which are blobs too. So Redis's limit of
512 MB, its output buffers and our memory never have to hold more than a part. Reads are checked against the digest
before they return data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from redisai_py.artifacts.digest import Buffer, Hasher, check_content, digest_of, is_digest
from redisai_py.artifacts.errors import Conflict, Corrupt, Invalid, Malformed, Missing
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.names import Keys
from redisai_py.artifacts.strings import MAX_STRING, ReceiveBuffer, lengths, set_strings

__all__ = ["PART_SIZE", "Blobs", "cut"]

PART_SIZE = MAX_STRING
_LONGEST_LIST = 4 * 1024 * 1024
"""Bytes of a list of parts: enough for 3 TB."""
_GROUP_BYTES = 16 * 1024 * 1024
_GROUP_COUNT = 500

Part = tuple[str, int]
"""Digest and size of a blob, as stored."""


class Blobs:
    """The blobs of one Redis.   link: a client that returns bytes."""

    def __init__(self, link: redis.Redis, keys: Keys) -> None:
        self._redis = link
        self._keys = keys

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, data: Buffer, lease: Lease) -> str:
        """Store data of any size. Returns: its digest. Raises: redis.RedisError."""
        if len(data) > PART_SIZE:
            return self.put_stream([data], lease)[0]
        return self.put_many([data], lease)[0]

    def put_many(self, items: Iterable[Buffer], lease: Lease) -> list[str]:
        """Store many blobs of at most 64 MiB in few round trips; existing ones are not sent again.

        Returns: their digests, in order. Raises: Invalid: one is larger.
        """
        digests: list[str] = []
        group: list[tuple[str, Buffer]] = []
        size = 0
        for data in items:
            group.append((digest_of(data), data))
            size += len(data)
            if size >= _GROUP_BYTES or len(group) >= _GROUP_COUNT:
                digests += self.put_hashed(group, lease)
                group, size = [], 0
        return digests + self.put_hashed(group, lease)

    def put_hashed(self, group: Sequence[tuple[str, Buffer]], lease: Lease) -> list[str]:
        """Store a small number of blobs with known digests, in two round trips."""
        if not group:
            return []
        longest = max(len(data) for _, data in group)
        if longest > PART_SIZE:
            raise Invalid(f"a part has {longest} bytes; the maximum is {PART_SIZE}")
        with self._redis.pipeline(transaction=False) as pipeline:
            lease.hold(pipeline, [digest for digest, _ in group])
            leases = len(pipeline)
            for digest, _ in group:
                pipeline.strlen(self._keys.blob(digest))
            sizes = pipeline.execute()[leases:]
        # Not NX: a string of another length is a truncated blob, which is repaired here.
        absent = [
            (self._keys.blob(digest), data)
            for (digest, data), size in zip(group, sizes, strict=True)
            if size != len(data) or not size
        ]
        if absent:
            set_strings(self._redis, absent)
        return [digest for digest, _ in group]

    def put_stream(self, chunks: Iterable[Buffer], lease: Lease, expected: str | None = None) -> Part:
        """Store bytes that arrive in chunks, holding one part of 64 MiB at a time.

        Args:    expected: the digest that they must have.
        Returns: digest and size of the whole.
        Raises:  Corrupt: the digest differs; no blob exists under the expected one.
        """
        whole = Hasher()
        parts: list[Part] = []
        for part in cut(chunks, PART_SIZE):
            whole.update(part)
            parts.append((self.put_many([part], lease)[0], len(part)))
        if not parts:
            parts.append((self.put(b"", lease), 0))
        if expected is not None and whole.digest != expected:
            raise Corrupt("blob", expected, whole.digest)
        if len(parts) > 1:
            self._put_parts(whole.digest, parts, lease)
        return whole.digest, whole.size

    def _put_parts(self, digest: str, parts: Sequence[Part], lease: Lease) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            lease.hold(pipeline, [digest])
            text = "\n".join(f"{part} {size}" for part, size in parts)
            pipeline.set(self._keys.parts(digest), text)
            pipeline.execute()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, digest: str, limit: int | None = None) -> bytes:
        """A blob's bytes, checked.

        Args:   limit: refuse a blob of more bytes before reading it.
        Raises: Missing, Corrupt; Malformed: larger than the limit.
        """
        if limit is not None and (size := self.size(digest)) is not None and size > limit:
            raise Malformed(f"blob {digest} has {size} bytes; the maximum is {limit}")
        data: Any = self._redis.get(self._keys.blob(digest))
        if data is None:
            return b"".join(self.stream(digest))
        check_content("blob", digest, data, "Redis")
        return bytes(data)

    def read_many(self, wanted: Sequence[Part], buffer: ReceiveBuffer | None = None) -> Iterator[Any]:
        """Unchecked blobs of known sizes; None for a blob that is not stored as one string.

        Args:   buffer: to read into; each value overwrites the previous one.
        """
        keys = [self._keys.blob(digest) for digest, _ in wanted]
        if buffer is not None:
            return buffer.read(self._redis, keys, [size for _, size in wanted])
        found: Any = self._redis.mget(keys)
        return iter(found)

    def get_many(self, wanted: Sequence[Part], buffer: ReceiveBuffer | None = None) -> Iterator[Buffer]:
        """Blobs, in order, each checked before it is yielded.

        Args:   buffer: see `read_many`.
        Raises: Missing, Corrupt.
        """
        if not wanted:
            return
        for (digest, _), data in zip(wanted, self.read_many(wanted, buffer), strict=True):
            if data is None:
                yield b"".join(self.stream(digest))
            else:
                check_content("blob", digest, data, "Redis")
                yield data

    def stream(self, digest: str) -> Iterator[bytes]:
        """A blob in parts of at most 64 MiB. Each part is checked before it is yielded, the whole at the end.

        Raises: Missing, Corrupt.
        """
        data: Any = self._redis.get(self._keys.blob(digest))
        if data is not None:
            check_content("blob", digest, data, "Redis")
            yield data
            return
        parts = self.parts(digest)
        if parts is None:
            raise Missing(f"blob {digest} is not in Redis")
        whole = Hasher()
        for part, size in parts:
            piece: Any = self._redis.get(self._keys.blob(part))
            if piece is None:
                raise Missing(f"a part of blob {digest} is not in Redis: {part}, {size} bytes")
            check_content(f"a part of blob {digest}", part, piece, "Redis")
            whole.update(piece)
            yield piece
        if whole.digest != digest:
            raise Corrupt("blob", digest, whole.digest, "Redis")

    def parts(self, digest: str) -> list[Part] | None:
        """Digests and sizes of a blob's parts; None if it is not stored in parts. Raises: Malformed."""
        length: Any = self._redis.strlen(self._keys.parts(digest))
        if not length:
            return None
        if length > _LONGEST_LIST:
            raise Malformed(f"the list of parts of blob {digest} has {length} bytes; at most {_LONGEST_LIST} are read")
        text: Any = self._redis.get(self._keys.parts(digest))
        found = []
        for line in (text or b"").decode("utf-8", "replace").split("\n"):
            part, _, size = line.partition(" ")
            plain = size.isascii() and size.isdigit() and len(size) < 10
            if not is_digest(part) or not plain or int(size) > PART_SIZE:
                raise Malformed(f"the list of parts of blob {digest} has the line {line[:100]!r}, which names no part")
            found.append((part, int(size)))
        return found

    def size(self, digest: str) -> int | None:
        """Size of a blob in bytes; None if it is not in Redis, or incomplete."""
        return self.sizes([digest])[digest]

    def sizes(self, digests: Sequence[str]) -> dict[str, int | None]:
        """Sizes of blobs in bytes; None for each that is not in Redis, or incomplete. Reads only lengths."""
        found: dict[str, int | None] = {}
        for start in range(0, len(digests), _GROUP_COUNT):
            group = digests[start : start + _GROUP_COUNT]
            with self._redis.pipeline(transaction=False) as pipeline:
                for digest in group:
                    pipeline.strlen(self._keys.blob(digest))
                    pipeline.exists(self._keys.blob(digest))
                replies = pipeline.execute()
            for place, digest in enumerate(group):
                length, there = replies[2 * place : 2 * place + 2]
                found[digest] = length if there else self._size_of_parts(digest)
        return found

    def _size_of_parts(self, digest: str) -> int | None:
        parts = self.parts(digest)
        if parts is None:
            return None
        wanted = list(dict.fromkeys(part for part, _ in parts))
        sizes = lengths(self._redis, [self._keys.blob(part) for part in wanted])  # a part has no parts itself
        there = dict(zip(wanted, sizes, strict=True))
        return sum(size for _, size in parts) if all(there[part] == size for part, size in parts) else None

    def damaged_keys(self, digest: str) -> list[str]:
        """The keys of a damaged blob to delete, so that it can be written again."""
        try:
            parts = self.parts(digest)
        except Malformed:
            return [self._keys.parts(digest)]
        if parts is None:
            return [self._keys.blob(digest)]
        keys = [self._keys.parts(digest)]
        for part, _ in parts:
            piece: Any = self._redis.get(self._keys.blob(part))
            if piece is not None and digest_of(piece) != part:
                keys.append(self._keys.blob(part))
        return keys

    def confirm(self, descriptors: Iterable[tuple[str, int]], lease: Lease) -> None:
        """Check that blobs exist, complete, and will stay, before a pointer to them is written.

        Args:   descriptors: digests and sizes.
        Raises: Conflict: a blob is missing: this writer was suspended for over an hour, or somebody deleted the blob.
        """
        lease.renew()
        wanted = dict(descriptors)
        there = self.sizes(list(wanted))
        for digest, size in wanted.items():
            if there[digest] != size:
                raise Conflict(f"blob {digest} disappeared during the operation; run it again")


def cut(chunks: Iterable[Buffer], size: int) -> Iterator[Buffer]:
    """The same bytes in pieces of `size` bytes, the last one smaller; buffers are sliced, not copied."""
    held = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B") if not isinstance(chunk, memoryview) else chunk
        while len(view):
            if not held and len(view) >= size:
                yield view[:size]
                view = view[size:]
                continue
            taken = view[: size - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) == size:
                yield bytes(held) if size < 65536 else memoryview(held)
                held = bytearray()
    if held:
        yield memoryview(held)
