"""The near cache: tensors and model ids that this server recently read or wrote. Pure.

An entry proves nothing, because anybody may have changed the key since. A result computed from entries counts, and is
written, only if Redis still holds exactly the bytes of every entry used; the script that writes also compares, in one
step (`store.writer`, docs/adr/0013). So entries need not be kept coherent: a stale one costs a run, and a key that
others change is read from Redis for a while.
"""

from __future__ import annotations

from redisai_py.predictions.identity import tensor_digest
from redisai_py.predictions.rule import Rule
from redisai_py.store import codec
from redisai_py.tensor import Tensor

__all__ = ["MAX_ENTRY_BYTES", "Entry", "NearCache"]

MAX_ENTRY_BYTES = 4096 + 256
"""Comparing costs Redis 2.7 us per KiB; reading costs it 0.9 us, and us a round trip. Beyond 4 KiB reading wins."""
_ENTRY_OVERHEAD = 512
"""Bytes counted per entry besides its data: objects, dictionary slots, the key."""
_READS_AFTER_CHANGE = 8
_MOST_CHANGED = 4096


class Entry:
    """The value of a key.

    raw: a tensor's whole string, or a model's id.   identity: of the model, None for a tensor.
    kept: the tensor, once it was used twice.   rule: the model's cache rule, which is not compared: it may be up to a
    second old (`ai.prediction_cache.predictions`).
    """

    __slots__ = ("_digest", "_tensor", "identity", "kept", "raw", "rule")

    def __init__(self, raw: bytes, identity: str | None = None, rule: Rule | None = None) -> None:
        self.raw = raw
        self.identity = identity
        self.rule = rule
        self._tensor: Tensor | None = None
        self._digest: bytes | None = None
        self.kept: Tensor | None = None

    def digest(self) -> bytes:
        """The tensor's digest, computed on first use. Only for a decoded tensor."""
        digest = self._digest
        if digest is None:
            assert self._tensor is not None
            digest = self._digest = tensor_digest(self._tensor)
        return digest

    def tensor(self) -> Tensor | None:
        """The tensor, decoded on first use; None for a model."""
        tensor = self._tensor
        if tensor is not None:
            tensor.keep_array()  # used a second time, and perhaps many times more
            self.kept = tensor
        elif self.identity is None:
            tensor = self._tensor = codec.decode_tensor(self.raw)
        return tensor


class NearCache:
    """Entries of one identity, at most `limit_bytes`; the oldest are dropped first."""

    __slots__ = ("_changed", "_limit_bytes", "entries", "model_keys", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.model_keys: set[bytes] = set()
        """Keys of models that were added; not all are still present."""
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._changed: dict[bytes, int] = {}  # keys that others changed -> number of reads not to keep

    def put(self, key: bytes, raw: bytes) -> None:
        """Keep the string of a tensor that was just written."""
        if self._changed:
            self._changed.pop(key, None)
        self._keep(key, Entry(raw))

    def put_model(self, key: bytes, stored_id: str, identity: str, rule: Rule | None = None) -> None:
        """Keep a model's id that was just read, and the identity of the model loaded from this key."""
        self.model_keys.add(key)
        self._keep(key, Entry(stored_id.encode(), identity, rule))

    def put_script(self, key: bytes, stored_id: str, identity: str) -> None:
        """The same of a script."""
        self._keep(key, Entry(stored_id.encode(), identity))

    def put_read(self, key: bytes, raw: bytes) -> None:
        """Keep a tensor that was just read, unless others changed the key recently."""
        left = self._changed.pop(key, 0)
        if left:
            self._changed[key] = left - 1
        else:
            self._keep(key, Entry(raw))

    def _keep(self, key: bytes, entry: Entry) -> None:
        self.drop(key)
        size = len(entry.raw)
        if size > MAX_ENTRY_BYTES:
            return
        self.entries[key] = entry
        self.size_bytes += size + _ENTRY_OVERHEAD
        while self.size_bytes > self._limit_bytes:
            self.drop(next(iter(self.entries)))

    def drop(self, key: bytes) -> None:
        """Drop a key."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= len(entry.raw) + _ENTRY_OVERHEAD

    def changed(self, key: bytes) -> None:
        """Drop a key whose value in Redis differs; the next few reads are not kept."""
        entry = self.entries.get(key)
        self.drop(key)
        if entry is not None and entry.identity is not None:
            return  # models are replaced rarely
        self._changed[key] = _READS_AFTER_CHANGE
        if len(self._changed) > _MOST_CHANGED:
            del self._changed[next(iter(self._changed))]
