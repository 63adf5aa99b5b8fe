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

__all__ = ["Held", "KeyMap", "Place", "key_text"]

_LIMIT = 10_000
_LIMIT_KEY_BYTES = 16 * 1024 * 1024


class Place(NamedTuple):
    """database: Redis's number.   key: as stored."""

    kind: Kind
    database: int
    key: bytes

    @property
    def name(self) -> str:
        """The key as text, for logs and labels."""
        return key_text(self.key)


class Held(NamedTuple):
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
        self._held: OrderedDict[Place, Held] = OrderedDict()  # least recently used first
        self._places: dict[str, dict[Place, None]] = {}  # by identity, most recent last
        self._announced: dict[str, Place] = {}
        self._ids: OrderedDict[str, None] = OrderedDict()  # read under any key, most recent last

    def met(self, place: Place, held: Held) -> str | None:
        """The key now holds this. Returns: the identity it held before, unless another key has the same."""
        before = self._remove(place)
        self._held[place] = held
        self._key_bytes += len(place.key)
        self._places.setdefault(held.identity, {})[place] = None
        self._ids[held.stored_id] = None
        self._ids.move_to_end(held.stored_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)
        while len(self._held) > self._limit or self._key_bytes > self._limit_key_bytes:
            self.forget(next(iter(self._held)))
        return None if before == held.identity else before

    def forget(self, place: Place) -> str | None:
        """The key is deleted. Returns: the identity it held, unless it is unknown or another key has the same."""
        return self._remove(place)

    def _remove(self, place: Place) -> str | None:
        held = self._held.pop(place, None)
        if held is None:
            return None
        self._key_bytes -= len(place.key)
        places = self._places[held.identity]
        del places[place]
        if places:  # after a COPY, two keys have the same identity
            return None
        del self._places[held.identity]
        return held.identity

    def announce(self, identity: str, place: Place) -> None:
        """This identity is being loaded for the key, which may come to hold it."""
        self._announced.setdefault(identity, place)

    def withdraw(self, identity: str) -> None:
        """Loading has ended; if no key holds the identity, it has no name."""
        self._announced.pop(identity, None)

    def place_of(self, identity: str) -> Place | None:
        """The key where it was last seen."""
        places = self._places.get(identity)
        return next(reversed(places)) if places else self._announced.get(identity)

    def held(self, place: Place) -> Held | None:
        """The content last seen there."""
        return self._held.get(place)

    def identity(self, place: Place, stored_id: str) -> str | None:
        """The identity of the key's content, if it has this id; None if that was not read there."""
        held = self._held.get(place)
        if held is None or held.stored_id != stored_id:
            return None
        self._held.move_to_end(place)
        return held.identity

    def has_met(self, stored_id: str) -> bool:
        """Whether the id was read under any key: a new key with this id may hold the same content, renamed."""
        return stored_id in self._ids

    def entries(self) -> list[tuple[Place, Held]]:
        """All entries, least recently used first."""
        return list(self._held.items())
