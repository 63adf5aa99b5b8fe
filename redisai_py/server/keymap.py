"""Under which key a model or script was last met, and which stored id it had then.

The engine knows ids only, and an id is new at every store. Operators know keys; and when a key gets a new id or is
deleted, the old id's memory should go at once instead of when it is the least recently used. This map serves both. It
is a hint and no truth: what a key holds now, Redis alone says. Bounded: the entries longest unmet go first, and with
them only a name.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Held", "KeyMap", "Place", "key_text"]

_LIMIT = 500


class Place(NamedTuple):
    """kind: MODEL or SCRIPT.   database: Redis's number.   key: as stored."""

    kind: str
    database: int
    key: bytes

    @property
    def name(self) -> str:
        """The key as text, for logs and labels."""
        return key_text(self.key)


class Held(NamedTuple):
    """What a place holds. stored_id: new at every store.   backend: wire name.   device: as typed."""

    stored_id: str
    backend: str
    device: str


def key_text(key: bytes) -> str:
    """A key as text: what is not UTF-8 as `\\xff`."""
    return key.decode("utf-8", "backslashreplace")


class KeyMap:
    """Args: limit: entries kept, which bounds the labels of the metrics too. Thread: the event loop's."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._held: dict[Place, Held] = {}  # longest unmet first
        self._places: dict[str, Place] = {}

    def met(self, place: Place, held: Held) -> str | None:
        """The key holds this now. Returns the id that it held before, unless another key has that one."""
        before = self._held.pop(place, None)
        self._held[place] = held
        self._places[held.stored_id] = place
        if len(self._held) > self._limit:
            self.forget(next(iter(self._held)))
        if before is None or before.stored_id == held.stored_id:
            return None
        return self._orphan(before.stored_id, place)

    def forget(self, place: Place) -> str | None:
        """The key is gone. Returns the id that it held, unless it is not known or another key has it."""
        before = self._held.pop(place, None)
        return None if before is None else self._orphan(before.stored_id, place)

    def announce(self, stored_id: str, place: Place) -> None:
        """This id is being loaded for the key, which may come to hold it."""
        self._places.setdefault(stored_id, place)

    def withdraw(self, stored_id: str) -> None:
        """It is loaded, or not: if no key holds it, it has no name."""
        place = self._places.get(stored_id)
        if place is not None and all(held.stored_id != stored_id for held in self._held.values()):
            del self._places[stored_id]

    def _orphan(self, stored_id: str, place: Place) -> str | None:
        """The id, if no key has it any more. After a COPY two keys have one id."""
        others = [other for other, held in self._held.items() if held.stored_id == stored_id]
        if others:
            self._places[stored_id] = others[-1]
            return None
        if self._places.get(stored_id) == place:
            del self._places[stored_id]
        return stored_id

    def place_of(self, stored_id: str) -> Place | None:
        """Where the id was last met."""
        return self._places.get(stored_id)

    def held(self, place: Place) -> Held | None:
        """What was last met there."""
        return self._held.get(place)

    def entries(self) -> list[tuple[Place, Held]]:
        """All, longest unmet first."""
        return list(self._held.items())
