"""The models in one engine process, as the manager knows them: who uses which, by the numbers that it gave them.

A model whose last user has left is remembered for a while, because a verdict may still concern it: its process may have
ended meanwhile, or ends while the model is unloaded. Guarded by the manager's lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["ProgramTable"]

_MOST_LEFT = 64
"""Models without users that are remembered."""

User = TypeVar("User", bound=Hashable)


class ProgramTable(Generic[User]):
    """Every operation takes the same time, however many models there are or were."""

    def __init__(self) -> None:
        self._used: dict[User, int] = {}
        self._users: dict[int, set[User]] = {}
        self._numbers: dict[str, int] = {}
        self._identities: dict[int, str] = {}
        self._left: OrderedDict[int, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def users(self) -> Iterable[User]:
        """All users of all models."""
        return self._used.keys()

    def add(self, user: User, number: int, identity: str) -> None:
        """A user of a model, which gets this number unless it is there (`number_of`)."""
        self.remove(user)
        self._used[user] = number
        self._users.setdefault(number, set()).add(user)
        self._numbers[identity] = number
        self._identities[number] = identity

    def remove(self, user: User) -> None:
        """A user has left, if it was there."""
        number = self._used.pop(user, None)
        if number is None:
            return
        users = self._users[number]
        users.discard(user)
        if not users:
            del self._users[number]
            identity = self._left[number] = self._identities.pop(number)
            if self._numbers.get(identity) == number:
                del self._numbers[identity]
            if len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)

    def number_of(self, identity: str) -> int:
        """The number of a model in use, 0 if there is none of that identity."""
        return self._numbers.get(identity, 0)

    def identity_of(self, number: int) -> str:
        """A model's identity; empty if it has been without users for long."""
        return self._identities.get(number) or self._left.get(number, "")

    def rename(self, before: str, identity: str) -> None:
        """A model has another identity from now on."""
        number = self._numbers.pop(before, 0)
        if number:
            self._numbers[identity] = number
            self._identities[number] = identity
