"""The near cache: tensors and model ids that this server lately read or wrote, kept coherent by Redis itself. Pure.

Redis's server-assisted client-side caching (CLIENT TRACKING) sends an invalidation for every key read on the tracking
connection that anybody changes. Invalidations are asynchronous, so an entry alone proves nothing: what was computed
from entries counts only once a reply to something sent on that connection after the command's arrival has come and
the entries are still here (`unchanged`). docs/adr/0013 has the argument; the hammer in tests/fault tries to break it.

Entries belong to one identity, since a hit asks no ACL, and carry the key's expiry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Entry", "NearCache", "Reading"]

_ENTRY_OVERHEAD = 512
"""Bytes counted for an entry beside its data: objects, dictionary slots, the key."""
MAX_ENTRY_BYTES = 64 * 1024


class Entry:
    """One key's value: a Tensor, or a model's id (str). deadline: monotonic seconds when the key expires."""

    __slots__ = ("deadline", "size_bytes", "value")

    def __init__(self, value: Any, size_bytes: int, deadline: float = math.inf) -> None:
        self.value = value
        self.size_bytes = size_bytes + _ENTRY_OVERHEAD
        self.deadline = deadline


class Reading:
    """Keys being read: what comes back may be kept only if no invalidation came in between."""

    __slots__ = ("keys",)

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.keys = set(keys)


class NearCache:
    """Entries of one identity, at most `limit_bytes`; the oldest go first."""

    __slots__ = ("_limit_bytes", "_readings", "entries", "invalidations", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.size_bytes = 0
        self.invalidations = 0
        self._limit_bytes = limit_bytes
        self._readings: set[Reading] = set()

    def put(self, key: bytes, value: Any, size_bytes: int, deadline: float = math.inf) -> None:
        """Keep a value that Redis holds now, and that it tracks for us."""
        entries = self.entries
        old = entries.pop(key, None)
        if old is not None:
            self.size_bytes -= old.size_bytes
        if size_bytes >= MAX_ENTRY_BYTES:
            return
        entry = entries[key] = Entry(value, size_bytes, deadline)
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._limit_bytes:
            self.drop(next(iter(entries)))

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes

    def begin(self, keys: Iterable[bytes]) -> Reading:
        """Call before a read is sent; see `Reading`."""
        reading = Reading(keys)
        self._readings.add(reading)
        return reading

    def end(self, reading: Reading) -> set[bytes]:
        """The keys of a read whose values may be kept: nobody changed them since it was sent."""
        self._readings.discard(reading)
        return reading.keys

    def invalidate(self, keys: Sequence[bytes] | None) -> None:
        """Redis says that these keys changed; None is all of them."""
        self.invalidations += 1
        if keys is None:
            self.clear()
            return
        for key in keys:
            entry = self.entries.pop(key, None)
            if entry is not None:
                self.size_bytes -= entry.size_bytes
            for reading in self._readings:
                reading.keys.discard(key)

    def clear(self) -> None:
        """Forget everything: the connection is new, or the database was emptied."""
        self.entries.clear()
        self.size_bytes = 0
        for reading in self._readings:
            reading.keys.clear()

    def unchanged(self, used: Iterable[tuple[bytes, Entry]]) -> bool:
        """Whether the entries that a result was computed from are still what Redis holds."""
        entries = self.entries
        return all(entries.get(key) is entry for key, entry in used)
