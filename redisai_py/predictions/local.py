"""The server's own cache of predictions, bounded in bytes and in age. Pure: the caller passes the time.

Each identity has its own entries, so a user never gets what Redis would not let it read. An entry lives for at most
five seconds, and never longer than in Redis, so what is deleted in Redis disappears here soon after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from redisai_py.store.codec import encode_header
from redisai_py.tensor import Tensor

__all__ = ["MOST_AGE_S", "LocalCache", "LocalEntry"]

MOST_AGE_S = 5.0
_OVERHEAD = 512
_LARGEST_SHARE = 4
"""An entry larger than this fraction of the limit is not kept."""


@dataclass(slots=True)
class LocalEntry:
    """One prediction.

    dies_at: monotonic seconds, end of its life here.   expires_at: end of its life in Redis.   refreshes_at: when a hit
    may run the model again; 0 until it is known.
    """

    outputs: Sequence[Tensor]
    size: int
    dies_at: float
    expires_at: float
    refreshes_at: float = 0.0
    _strings: list[bytes] | None = None

    def strings(self) -> list[bytes]:
        """The outputs as they are written under keys; made once."""
        if self._strings is None:
            self._strings = [b"".join((encode_header(output), output.data)) for output in self.outputs]
        return self._strings


class LocalCache:
    """The predictions of all identities, evicted in LRU order. limit_bytes: 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.size_bytes = 0
        self._entries: OrderedDict[tuple[Hashable, bytes], LocalEntry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, owner: Hashable, key: bytes, now: float) -> LocalEntry | None:
        """The prediction, if it is still valid."""
        entry = self._entries.get((owner, key))
        if entry is None:
            return None
        if now >= entry.dies_at:
            self._drop((owner, key))
            return None
        self._entries.move_to_end((owner, key))
        return entry

    def put(self, owner: Hashable, key: bytes, outputs: Sequence[Tensor], now: float, life_s: float) -> None:
        """Keep a prediction whose remaining lifetime in Redis is `life_s` seconds."""
        self._drop((owner, key))
        size = _OVERHEAD + 2 * sum(len(output.data) for output in outputs)  # the strings too
        if life_s <= 0 or size * _LARGEST_SHARE > self._limit_bytes:
            return
        self._entries[owner, key] = LocalEntry(outputs, size, now + min(life_s, MOST_AGE_S), now + life_s)
        self.size_bytes += size
        while self.size_bytes > self._limit_bytes:
            self._drop(next(iter(self._entries)))

    def forget(self, prefix: bytes) -> None:
        """Drop all entries whose keys begin with `prefix`, of every identity."""
        for at in [at for at in self._entries if at[1].startswith(prefix)]:
            self._drop(at)

    def expire(self, now: float) -> None:
        """Drop expired entries that nobody has requested since."""
        for at in [at for at, entry in self._entries.items() if now >= entry.dies_at]:
            self._drop(at)

    def _drop(self, at: tuple[Hashable, bytes]) -> None:
        entry = self._entries.pop(at, None)
        if entry is not None:
            self.size_bytes -= entry.size
