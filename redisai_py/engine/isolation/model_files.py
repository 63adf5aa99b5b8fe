"""The files of models' bytes that the manager keeps for front doors which have not read them. See docs/adr/0053.

A front door sends the file of a large model when it wants a process for it. Another one that needs the same model gets
it from here instead of reading it from Redis, and keeps it open for itself: to load the model again if its process
ends. Guarded by the manager's lock.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["ModelFiles"]

User = tuple[Any, int]
"""A front door, and its number of the model."""


class _Entry:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users: set[User] = set()


class ModelFiles:
    """By the model's identity, each until its last user has left."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._identities: dict[User, str] = {}

    def keep(self, user: User, identity: str, fd: int) -> None:
        """A user brings a model's file, which stays theirs. Nothing is kept if no files are left."""
        self.drop(user)
        if identity not in self._entries:
            try:
                self._entries[identity] = _Entry(os.dup(fd))
            except OSError:
                return
        self._entries[identity].users.add(user)
        self._identities[user] = identity

    def drop(self, user: User) -> None:
        """A user has left, if there was one."""
        identity = self._identities.pop(user, None)
        if identity is None:
            return
        entry = self._entries[identity]
        entry.users.discard(user)
        if not entry.users:
            del self._entries[identity]
            os.close(entry.fd)

    def users(self) -> list[User]:
        """All users."""
        return list(self._identities)

    def rename(self, before: str, identity: str) -> None:
        """A model has another identity from now on."""
        entry = self._entries.get(before)
        if entry is not None and identity not in self._entries:
            self._entries[identity] = self._entries.pop(before)
            self._identities.update(dict.fromkeys(entry.users, identity))

    def open(self, identity: str) -> int:
        """A descriptor of a model's file, for the caller to close; -1: it is not here, or no files are left."""
        entry = self._entries.get(identity)
        try:
            return -1 if entry is None else os.dup(entry.fd)
        except OSError:
            return -1
