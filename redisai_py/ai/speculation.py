"""Commands computed from cached values, which count only once Redis has confirmed those values.

`store.writer` explains why such a result may count. A command is speculative if everything it reads is cached, its
models are loaded, and they run quickly, because the run is wasted if a cached value is stale.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from redisai_py.errors import RedisAIError, UpstreamLost, WrongType
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.replies import OK
from redisai_py.store.codec import encode_header
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.store.writer import Used
from redisai_py.tensor import Tensor
from redisai_py.upstream.interface import Stream

__all__ = ["Speculation", "StoresOutputs", "encode_tensors"]

_OK = b"+OK\r\n"


class Speculation:
    """A command in progress, a `Member` of a commit. Args: used: the cached values it is computed from."""

    __slots__ = ()
    turn: Turn
    dropped_if_gone = True
    used: Used
    writes: list[tuple[bytes, bytes]]
    """Keys and strings for the commit; empty if there is nothing to write, or not everything fits into a commit."""

    def goes_alone(self, stream: Stream) -> bool:
        """It needs the commit, with or without others."""
        return False

    def committed(self) -> None:
        """Redis held the used values, and the writes were executed: reply."""
        raise NotImplementedError

    def retry(self) -> Coroutine[Any, Any, Any]:
        """Execute the command again from the start, reading from Redis."""
        raise NotImplementedError

    def stale(self) -> None:
        """A used value has changed, or the check was impossible: execute the command again."""
        self.turn.continue_with(self.retry())

    def refused(self, error: RedisAIError) -> None:
        """Redis did not write."""
        reply = self.refusal(error)
        if reply is None:
            self.stale()  # the path through the store finds the right error
        else:
            self.turn.finish(reply)

    def refusal(self, error: RedisAIError) -> Any:
        """The reply for a refusal that ends the command; None if the command is to run again."""
        raise NotImplementedError


class StoresOutputs(Speculation):
    """A speculation whose outputs all go to keys. value, error: what its run gave."""

    __slots__ = ()
    value: Any
    error: BaseException | None

    @property
    def output_keys(self) -> Sequence[bytes]:
        """A key per output."""
        raise NotImplementedError

    def committed(self) -> None:
        turn = self.turn
        if self.writes:
            turn.finish_with(_OK)
        elif self.error is not None:
            turn.finish(turn.failure(self.error))
        else:
            turn.continue_with(self._put(self.value))

    async def _put(self, outputs: Any) -> Any:
        """Write what does not fit into a commit."""
        access = await self.turn.session.authenticated()
        await access.store.put_outputs(zip(self.output_keys, outputs, strict=True))
        return OK

    def refusal(self, error: RedisAIError) -> Any:
        return error if isinstance(error, UpstreamLost | WrongType) else None


def encode_tensors(items: Iterable[tuple[bytes, Any]]) -> list[tuple[bytes, bytes]]:
    """Keys and strings for a commit; empty if they do not all fit into one: large values, or not tensors."""
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
