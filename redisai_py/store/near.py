"""The near cache: tensors and model ids that this server lately read or wrote, kept coherent by Redis itself. Pure.

Redis's server-assisted client-side caching (CLIENT TRACKING) sends an invalidation for every key read on the tracking
connection that anybody else changes. Invalidations are asynchronous, so an entry alone proves nothing: what was
computed from entries counts, and may be written anywhere, only once the reply to a TOUCH of their keys, sent on that
connection after the command's arrival (`format_touch`), says that all are there, and the entries are still here
(`unchanged`). docs/adr/0013 has the argument; the hammer in tests/fault tries to break it.

Of what the tracking connection changes itself Redis says nothing: whoever writes through it calls `put` or `drop` at
the reply. Entries belong to one identity and carry the key's expiry.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Entry", "Evicts", "NearCache", "Reading", "format_touch"]

_ENTRY_OVERHEAD = 512
"""Bytes counted for an entry beside its data: objects, dictionary slots, the key."""
MAX_ENTRY_BYTES = 64 * 1024
_GONE_MS = -2  # PTTL of a key that is not there


class Evicts(enum.Enum):
    """Which keys Redis may drop for want of memory.

    If it does so while it executes a command of ours it sends no invalidation, and whatever somebody else then stores
    under the key goes untold too. So of keys that Redis may drop, nothing is kept.
    """

    NONE = "none"
    EXPIRING = "expiring"
    ANY = "any"

    @classmethod
    def from_info(cls, info: bytes) -> Evicts:
        """What the reply to `INFO memory` says; ANY if it does not say."""
        fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
        policy = fields.get(b"maxmemory_policy", b"")
        if fields.get(b"maxmemory") == b"0" or policy == b"noeviction":
            return cls.NONE
        return cls.EXPIRING if policy.startswith(b"volatile-") else cls.ANY


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
    """Entries of one identity, at most `limit_bytes`; the oldest go first. Keeps nothing before `keep_within`."""

    __slots__ = (
        "_limit_bytes",
        "_readings",
        "_suspensions",
        "_takes_expiring",
        "_takes_lasting",
        "entries",
        "invalidations",
        "size_bytes",
    )

    def __init__(self, limit_bytes: int) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.size_bytes = 0
        self.invalidations = 0
        self._limit_bytes = limit_bytes
        self._readings: set[Reading] = set()
        self._suspensions = 0
        self._takes_lasting = self._takes_expiring = False

    def keep_within(self, evicts: Evicts) -> None:
        """Keep only what Redis cannot evict."""
        self._takes_lasting = evicts is not Evicts.ANY
        self._takes_expiring = evicts is Evicts.NONE
        for key in [key for key, entry in self.entries.items() if not self._takes(entry.deadline)]:
            self.drop(key)

    def _takes(self, deadline: float) -> bool:
        return self._takes_lasting if deadline == math.inf else self._takes_expiring

    def put(self, key: bytes, value: Any, size_bytes: int, deadline: float = math.inf) -> None:
        """Keep a value that Redis holds now, and that it tracks for us. deadline: monotonic seconds when it expires."""
        self.drop(key)
        if size_bytes >= MAX_ENTRY_BYTES or self._suspensions or not self._takes(deadline):
            return
        entries = self.entries
        entry = entries[key] = Entry(value, size_bytes, deadline)
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._limit_bytes:
            self.drop(next(iter(entries)))

    def put_read(self, key: bytes, value: Any, size_bytes: int, sent_at: float, lifetime_ms: int) -> None:
        """Keep a value that was read.

        Args: sent_at: monotonic seconds before the read was sent.   lifetime_ms: reply to the PTTL sent with it.
        """
        if lifetime_ms != _GONE_MS:
            self.put(key, value, size_bytes, math.inf if lifetime_ms < 0 else sent_at + lifetime_ms / 1000)

    def drop(self, key: bytes) -> None:
        """Forget a key: it was changed. What is being read may be from before."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
        for reading in self._readings:
            reading.keys.discard(key)

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
            self.drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.size_bytes = 0
        for reading in self._readings:
            reading.keys.clear()

    def suspend(self) -> None:
        """Forget everything, and keep nothing until as many `resume` as `suspend`: what replies tell is out of date."""
        self._suspensions += 1
        self.clear()

    def resume(self) -> None:
        """Replies from now on are to what was sent after `suspend`."""
        self._suspensions -= 1

    def unchanged(self, used: Iterable[tuple[bytes, Entry]]) -> bool:
        """Whether the entries that a result was computed from are still what Redis holds."""
        entries = self.entries
        return all(entries.get(key) is entry for key, entry in used)


def format_touch(keys: Sequence[bytes]) -> bytes:
    """The encoded TOUCH of `keys`; Redis answers how many of them it holds, each counted as often as it is named.

    It could be any command, as a reply to look out for. This one also finds what Redis evicted while it executed a
    command of ours, of which it sends no invalidation; asks the user's rights to the keys; and keeps values that are
    in use from looking idle to Redis's eviction.
    """
    words = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])
    return b"*%d\r\n$5\r\nTOUCH\r\n%b" % (len(keys) + 1, words)
