"""Commands that are computed from near values and counted only when Redis has confirmed what they used.

`store.writer` explains why such a result may count. A command is speculative if everything that it reads is near, its
models are loaded, and they run quickly: a near value may be out of date, and then the run was for nothing.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from redisai_py.errors import RedisAIError
from redisai_py.frontdoor.turn import Turn
from redisai_py.store.cache import NearCache
from redisai_py.store.codec import encode_header
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.store.writer import Used
from redisai_py.tensor import Tensor

__all__ = ["Speculation", "encode_tensors", "near_tensors"]


class Speculation:
    """One command under way, a `Member` of a commit. Args: used: the near values that it is computed from."""

    __slots__ = ()
    turn: Turn
    dropped_if_gone = True
    used: Used
    writes: list[tuple[bytes, bytes]]
    """Keys and strings that the commit writes; none if nothing is to be written, or not all fits into a commit."""

    def goes_alone(self) -> bool:
        """It needs the commit, with others or without."""
        return False

    def again(self) -> Coroutine[Any, Any, Any]:
        """The command from the beginning, reading from Redis."""
        raise NotImplementedError

    def stale(self) -> None:
        """What was used has changed, or nobody can tell: the command runs again."""
        self.turn.continue_with(self.again())

    def refused(self, error: RedisAIError) -> None:
        """Redis did not write."""
        reply = self.refusal(error)
        if reply is None:
            self.stale()  # the store's way finds the words
        else:
            self.turn.finish(reply)

    def refusal(self, error: RedisAIError) -> Any:
        """The reply in which the refusal ends the command; None if the command is to run again."""
        raise NotImplementedError


def near_tensors(near: NearCache, keys: Sequence[bytes], used: Used) -> list[Tensor] | None:
    """The tensors if all are near, which are then added to `used`."""
    entries = near.entries
    tensors: list[Tensor] = []
    for key in keys:
        entry = entries.get(key)
        if entry is None or (tensor := entry.kept or entry.tensor()) is None:
            return None
        used.append((key, entry))
        tensors.append(tensor)
    return tensors


def encode_tensors(items: Iterable[tuple[bytes, Any]]) -> list[tuple[bytes, bytes]]:
    """Keys and strings to write in a commit; empty if they do not all go into one: large ones, or no tensors."""
    writes: list[tuple[bytes, bytes]] = []
    size = 0
    for key, tensor in items:
        if type(tensor) is not Tensor:
            return []
        data = tensor.data
        size += len(data)
        if size >= LARGE_VALUE:
            return []
        writes.append((key, b"".join((encode_header(tensor), data))))
    return writes
