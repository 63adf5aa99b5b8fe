"""Replies that wait for their turn, because one before them takes longer than its one trip to Redis.

What such a reply needs is fetched ahead of its turn, but for few at a time: a pipeline may ask for a thousand large
tensors, and what has been fetched is held here until the client has read what comes before. A reply that streams begins
in its turn, and is never held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from redisai_py.commands.tensors import TensorGet
from redisai_py.errors import RedisAIError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.driver import drive
from redisai_py.resp.replies import encode_reply, takes_long
from redisai_py.tensor import Buffer

__all__ = ["ENDS", "STREAM_SIZE", "HeldReplies", "ReplyStream", "Streamed"]

ENDS = (UpstreamLost, UpstreamRefused)
"""Errors that end the connection where their reply would have been."""
STREAM_SIZE = 1024 * 1024
"""Tensors of this many bytes and more are streamed to the client."""
_AHEAD = 8
"""Replies that are fetched, or held, ahead of their turn."""


class Streamed:
    """A reply value: a tensor's blob that is to be streamed from Redis to the client."""

    __slots__ = ("request",)

    def __init__(self, request: TensorGet) -> None:
        self.request = request


class ReplyStream(Protocol):
    """A streamed reply under way. It is begun when nothing else is being sent to the client."""

    async def run(self) -> list[bytes]:
        """Send the reply, or what of it is not sent yet. Raises RedisAIError: nothing was sent."""

    def flow(self, pause: bool) -> None:
        """The client does not read, or reads again."""

    def leave(self) -> None:
        """The client has gone."""


class _Turn(Protocol):
    """What held replies need of their client's turn; see `Turn`."""

    paused: bool
    session: Any

    def send(self, segments: Sequence[Buffer]) -> None: ...
    def answered(self) -> None: ...
    def failure(self, error: BaseException) -> RedisAIError: ...
    def end_with(self, error: UpstreamLost | UpstreamRefused) -> None: ...
    def release_held(self) -> None: ...


class _Slot:
    """One reply. ahead: whether it counts as fetched ahead."""

    __slots__ = ("ahead", "reply")

    def __init__(self, reply: Any = None) -> None:
        self.reply = reply
        self.ahead = False


class HeldReplies:
    """Those of one client, in order; it exists while there are any. Args: make_stream: see `Client.stream`."""

    def __init__(self, turn: _Turn, make_stream: Callable[[Streamed], ReplyStream]) -> None:
        self.turn = turn
        self._make_stream = make_stream
        self._slots: deque[_Slot] = deque()
        self._to_fetch: deque[tuple[_Slot, Coroutine[Any, Any, Any]]] = deque()
        self._ahead = 0
        self.stream: ReplyStream | None = None
        """What is being streamed to the client now."""

    def add(self, reply: Any) -> None:
        """A reply that is there: its segments, or an error of ENDS."""
        self._slots.append(_Slot(reply))

    def add_coming(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """A reply that `coroutine` gives: a reply value, or Streamed. It counts as in flight until then."""
        slot = _Slot()
        self._slots.append(slot)
        self._to_fetch.append((slot, coroutine))
        self.fetch()

    def fetch(self) -> None:
        """Begin to fetch what may be."""
        while self._to_fetch and self._ahead < _AHEAD and not self.turn.paused:
            slot, coroutine = self._to_fetch.popleft()
            slot.ahead = True
            self._ahead += 1
            drive(self._encoded(coroutine), partial(self._fetched, slot))

    async def _encoded(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        value = await coroutine
        protocol = self.turn.session.protocol
        if type(value) is Streamed:
            return value
        if not takes_long(value):
            return encode_reply(value, protocol)
        # A million numbers take half a second to print: not on the thread that serves everybody else.
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
        """Send what is there and has its turn."""
        turn, slots = self.turn, self._slots
        while slots and slots[0].reply is not None and self.stream is None:
            reply = slots[0].reply
            if type(reply) is Streamed:
                self.stream = self._make_stream(reply)
                drive(self.stream.run(), self._streamed)
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
        """The client has gone."""
        if self.stream is not None:
            self.stream.leave()
        while self._to_fetch:
            self._to_fetch.popleft()[1].close()
