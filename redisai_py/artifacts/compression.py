"""zstd, level 3, kept only if it saves at least a tenth. Weights hardly shrink; tables shrink several times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from redisai_py.artifacts.blobs import PART_SIZE, cut
from redisai_py.artifacts.digest import Buffer, Hasher
from redisai_py.artifacts.errors import Corrupt, needing

__all__ = ["Packed", "decompressed"]

_LEVEL = 3
_WORTH_IT = 0.9
_WINDOW_LIMIT = 128 * 1024 * 1024


class Packed:
    """Content on its way into a blob: compressed if its first 64 MiB shrink enough, hashed and counted in passing.

    compress: False stores it as it is.
    """

    def __init__(self, chunks: Iterable[Buffer], compress: bool) -> None:
        self.content = Hasher()
        """Digest and size of the content, once all chunks have been consumed."""
        parts = cut(chunks, PART_SIZE)
        first = next(parts, b"")
        self._parts = itertools.chain([first], parts) if len(first) else iter(())
        self._compressor = None
        if compress:
            with suppress(ImportError):  # it comes with the extra `data`
                from zstandard import ZstdCompressor

                if len(ZstdCompressor(level=_LEVEL).compress(first)) < _WORTH_IT * len(first):
                    self._compressor = ZstdCompressor(level=_LEVEL).compressobj()

    def __iter__(self) -> Iterator[Buffer]:
        for part in self._parts:
            self.content.update(part)
            if self._compressor is None:
                yield part
            elif squeezed := self._compressor.compress(part):
                yield squeezed
        if self._compressor is not None:
            yield self._compressor.flush()


def decompressed(what: str, chunks: Iterable[bytes], digest: str, size: int) -> Iterator[bytes]:
    """The content of a zstd stream, never more than the announced size.

    Raises: Corrupt: the content has another digest, or is not zstd.   Invalid: zstandard is not installed.
    """
    with needing(f"{what} is compressed, and reading it needs zstandard", "data"):
        import zstandard
    whole = Hasher()
    source: Any = _Reader(iter(chunks))
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
            source, read_across_frames=True
        ) as stream:
            while piece := stream.read(PART_SIZE):
                whole.update(piece)
                if whole.size > size:
                    raise Corrupt(what, digest, f"of more than the {size} bytes announced")
                yield piece
    except zstandard.ZstdError as error:
        raise Corrupt(what, digest, f"none: {error}") from None
    if whole.digest != digest:
        raise Corrupt(what, digest, whole.digest)


class _Reader:
    """A readable file over chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> memoryview:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
