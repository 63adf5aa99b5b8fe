"""What this server has read from the keys of models and scripts: per key its stored id, and the identity of its
content.

A stored id is new at every store, so it shows whether a key has changed since it was read. It shows nothing else:
anybody may write any id into a hash of their own. So loaded programs are found by key and id together, and the identity
comes only from this server's own reading of that key (docs/adr/0018). Operators know keys and the engine knows
identities, so the names in logs and metrics come from here too. When a key gets a new id or is deleted, the memory of
its old content is freed at once, unless another key holds the same.

Bounded by entries and by the bytes of their keys; the least recently used are dropped first. Then the next run of that
key reads it again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from redisai_py.model import Kind

__all__ = ["KeyMap", "ProgramEntry", "ProgramKey", "key_text"]

_LIMIT = 10_000
_LIMIT_KEY_BYTES = 16 * 1024 * 1024


class ProgramKey(NamedTuple):
    """The key of a model or script. database: Redis's number.   key: as stored."""

    kind: Kind
    database: int
    key: bytes

    @property
    def name(self) -> str:
        """The key as text, for logs and labels."""
        return key_text(self.key)


class ProgramEntry(NamedTuple):
    """The content of a key. stored_id: new at every store.   identity: digest of what was read (`redisai_py.model`).
    backend: wire name.   device: as typed.
    """

    stored_id: str
    identity: str
    backend: str
    device: str


def key_text(key: bytes) -> str:
    """A key as text, with bytes that are not UTF-8 as `\\xff`."""
    return key.decode("utf-8", "backslashreplace")


class KeyMap:
    """Args: limit: maximum entries.   limit_key_bytes: maximum bytes of their keys. Thread: the event loop's."""

    def __init__(self, limit: int = _LIMIT, limit_key_bytes: int = _LIMIT_KEY_BYTES) -> None:
        self._limit = limit
        self._limit_key_bytes = limit_key_bytes
        self._key_bytes = 0
        self._entries: OrderedDict[ProgramKey, ProgramEntry] = OrderedDict()  # least recently used first
        self._keys: dict[str, dict[ProgramKey, None]] = {}  # by identity, most recent last
        self._announced: dict[str, ProgramKey] = {}
        self._ids: OrderedDict[str, None] = OrderedDict()  # read under any key, most recent last

    def put(self, program_key: ProgramKey, entry: ProgramEntry) -> str | None:
        """The key now holds this. Returns: the identity it held before, unless another key has the same."""
        before = self.forget(program_key)
        self._entries[program_key] = entry
        self._key_bytes += len(program_key.key)
        self._keys.setdefault(entry.identity, {})[program_key] = None
        self._ids[entry.stored_id] = None
        self._ids.move_to_end(entry.stored_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)
        while len(self._entries) > self._limit or self._key_bytes > self._limit_key_bytes:
            self.forget(next(iter(self._entries)))
        return None if before == entry.identity else before

    def forget(self, program_key: ProgramKey) -> str | None:
        """The key is deleted. Returns: the identity it held, unless it is unknown or another key has the same."""
        entry = self._entries.pop(program_key, None)
        if entry is None:
            return None
        self._key_bytes -= len(program_key.key)
        keys = self._keys[entry.identity]
        del keys[program_key]
        if keys:  # after a COPY, two keys have the same identity
            return None
        del self._keys[entry.identity]
        return entry.identity

    def announce(self, identity: str, program_key: ProgramKey) -> None:
        """This identity is being loaded for the key, which may come to hold it."""
        self._announced.setdefault(identity, program_key)

    def withdraw(self, identity: str) -> None:
        """Loading has ended; if no key holds the identity, it has no name."""
        self._announced.pop(identity, None)

    def key_of(self, identity: str) -> ProgramKey | None:
        """The key where it was last seen."""
        keys = self._keys.get(identity)
        return next(reversed(keys)) if keys else self._announced.get(identity)

    def get(self, program_key: ProgramKey) -> ProgramEntry | None:
        """The content last seen there."""
        return self._entries.get(program_key)

    def identity(self, program_key: ProgramKey, stored_id: str) -> str | None:
        """The identity of the key's content, if it has this id; None if that was not read there."""
        entry = self._entries.get(program_key)
        if entry is None or entry.stored_id != stored_id:
            return None
        self._entries.move_to_end(program_key)
        return entry.identity

    def has_seen(self, stored_id: str) -> bool:
        """Whether the id was read under any key: a new key with this id may hold the same content, renamed."""
        return stored_id in self._ids

    def entries(self) -> list[tuple[ProgramKey, ProgramEntry]]:
        """All entries, least recently used first."""
        return list(self._entries.items())
