"""Replies that wait for their turn, because an earlier one takes more than one round trip to Redis.

The data of such replies are fetched ahead, but only for a few at a time: a pipeline may request a thousand large
tensors, and fetched data are held until the client has read everything before. A streamed reply starts in its turn and
is never held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from redisai_py.commands.tensors import TensorGet
from redisai_py.errors import RedisAIError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.resp.replies import encode_reply, takes_long
from redisai_py.tensor import Buffer

__all__ = ["ENDS", "STREAM_SIZE", "HeldReplies", "ReplyStream", "Streamed"]

ENDS = (UpstreamLost, UpstreamRefused)
"""Errors that end the connection instead of a reply."""
STREAM_SIZE = 1024 * 1024
"""Tensors of at least this many bytes are streamed to the client."""
_AHEAD = 8
"""Maximum number of replies fetched, or held, ahead of their turn."""


@dataclass(slots=True)
class Streamed:
    """A reply value: a tensor's blob to be streamed from Redis to the client."""

    request: TensorGet


class ReplyStream(Protocol):
    """A streamed reply in progress. It starts when nothing else is being sent to the client."""

    async def run(self) -> list[bytes]:
        """Send the reply, or the rest of it. Raises RedisAIError: nothing was sent."""

    def flow(self, pause: bool) -> None:
        """The client has stopped reading, or reads again."""

    def leave(self) -> None:
        """The client has left."""


class _Turn(Protocol):
    """The client's turn, as held replies need it; see `Turn`."""

    paused: bool
    session: Any

    def send(self, segments: Sequence[Buffer]) -> None: ...
    def answered(self) -> None: ...
    def failure(self, error: BaseException) -> RedisAIError: ...
    def end_with(self, error: UpstreamLost | UpstreamRefused) -> None: ...
    def release_held(self) -> None: ...


@dataclass(slots=True)
class _Slot:
    """One reply. ahead: whether it counts as fetched ahead."""

    reply: Any = None
    ahead: bool = False


class HeldReplies:
    """The held replies of one client, in order; exists while there are any. Args: make_stream: see `Client.stream`."""

    def __init__(self, turn: _Turn, make_stream: Callable[[Streamed], ReplyStream]) -> None:
        self.turn = turn
        self._make_stream = make_stream
        self._slots: deque[_Slot] = deque()
        self._to_fetch: deque[tuple[_Slot, Coroutine[Any, Any, Any]]] = deque()
        self._ahead = 0
        self.stream: ReplyStream | None = None
        """The reply that is being streamed to the client."""

    def add(self, reply: Any) -> None:
        """Add a finished reply: its segments, or an error of ENDS."""
        self._slots.append(_Slot(reply))

    def add_coming(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Add a reply that `coroutine` computes: a reply value, or Streamed. Until then it counts as in flight."""
        slot = _Slot()
        self._slots.append(slot)
        self._to_fetch.append((slot, coroutine))
        self.fetch()

    def fetch(self) -> None:
        """Start fetching as many as allowed."""
        while self._to_fetch and self._ahead < _AHEAD and not self.turn.paused:
            slot, coroutine = self._to_fetch.popleft()
            slot.ahead = True
            self._ahead += 1
            run_eagerly(self._encoded(coroutine), partial(self._fetched, slot))

    async def _encoded(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        value = await coroutine
        protocol = self.turn.session.protocol
        if type(value) is Streamed:
            return value
        if not takes_long(value):
            return encode_reply(value, protocol)
        # Formatting a million numbers takes half a second: not on the event loop's thread.
        return await asyncio.get_running_loop().run_in_executor(None, encode_reply, value, protocol)

    def _fetched(self, slot: _Slot, reply: Any, error: BaseException | None) -> None:
        if error is not None:
            reply = self._error(error)
        slot.reply = reply
        self._release()
        if type(reply) is not Streamed:
            self.turn.answered()

    def _error(self, error: BaseException) -> Any:
        failure = self.turn.failure(error)
        return failure if isinstance(failure, ENDS) else encode_reply(failure, self.turn.session.protocol)

    def _release(self) -> None:
        """Send the finished replies whose turn it is."""
        turn, slots = self.turn, self._slots
        while slots and slots[0].reply is not None and self.stream is None:
            reply = slots[0].reply
            if type(reply) is Streamed:
                self.stream = self._make_stream(reply)
                run_eagerly(self.stream.run(), self._streamed)
                return
            self._ahead -= slots.popleft().ahead
            if isinstance(reply, ENDS):
                turn.release_held()
                turn.end_with(reply)
                return
            turn.send(reply)
        if not slots:
            turn.release_held()
        elif self._to_fetch:
            self.fetch()

    def _streamed(self, rest: Sequence[Buffer] | None, error: BaseException | None) -> None:
        self.stream = None
        self._slots[0].reply = self._error(error) if error is not None else rest or ()
        self._release()
        self.turn.answered()

    def flow(self) -> None:
        """The client has stopped reading, or reads again."""
        if self.stream is not None:
            self.stream.flow(self.turn.paused)
        self.fetch()

    def close(self) -> None:
        """The client has left."""
        if self.stream is not None:
            self.stream.leave()
        while self._to_fetch:
            self._to_fetch.popleft()[1].close()
