"""Replies that wait for their turn, because one before them takes longer than its one trip to Redis.

What such a reply needs is fetched ahead of its turn, but for few at a time: a pipeline may ask for a thousand large
tensors, and what has been fetched is held here until the client has read what comes before. A reply that streams (see
`tensor_stream`) begins in its turn, and is never held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.ai.tensor_stream import TensorStream
from redisai_py.errors import UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.driver import drive
from redisai_py.resp.replies import encode_reply, takes_long
from redisai_py.tensor import Buffer

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["ENDS", "HeldReplies"]

ENDS = (UpstreamLost, UpstreamRefused)
"""Errors that end the connection where their reply would have been."""
_AHEAD = 8
"""Replies that are fetched, or held, ahead of their turn."""


class _Slot:
    """One reply. ahead: whether it counts as fetched ahead."""

    __slots__ = ("ahead", "reply")

    def __init__(self, reply: Any = None) -> None:
        self.reply = reply
        self.ahead = False


class HeldReplies:
    """Those of one client, in order; it exists while there are any."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots: deque[_Slot] = deque()
        self._to_fetch: deque[tuple[_Slot, Coroutine[Any, Any, Any]]] = deque()
        self._ahead = 0
        self.stream: TensorStream | None = None
        """What is being streamed to the client now."""

    def add(self, reply: Any) -> None:
        """A reply that is there: its segments, or an error of ENDS."""
        self._slots.append(_Slot(reply))

    def add_coming(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """A reply that `coroutine` gives: a reply value, or a TensorStream. It counts as in flight until then."""
        slot = _Slot()
        self._slots.append(slot)
        self._to_fetch.append((slot, coroutine))
        self.fetch()

    def fetch(self) -> None:
        """Begin to fetch what may be."""
        while self._to_fetch and self._ahead < _AHEAD and not self._connection.writing_paused:
            slot, coroutine = self._to_fetch.popleft()
            slot.ahead = True
            self._ahead += 1
            drive(self._encoded(coroutine), partial(self._fetched, slot))

    async def _encoded(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        value = await coroutine
        protocol = self._connection.session.protocol
        if type(value) is TensorStream:
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
        if type(reply) is not TensorStream:
            self._connection.done_in_flight()

    def _error(self, error: BaseException) -> Any:
        failure = self._connection.failure(error)
        return failure if isinstance(failure, ENDS) else encode_reply(failure, self._connection.session.protocol)

    def _release(self) -> None:
        """Send what is there and has its turn."""
        connection, slots = self._connection, self._slots
        while slots and slots[0].reply is not None and self.stream is None:
            reply = slots[0].reply
            if type(reply) is TensorStream:
                self.stream = reply
                drive(reply.run(), self._streamed)
                return
            self._ahead -= slots.popleft().ahead
            if isinstance(reply, ENDS):
                connection.held = None
                connection.end_with(reply)
                return
            connection.send(reply)
        if not slots:
            connection.held = None
        elif self._to_fetch:
            self.fetch()

    def _streamed(self, rest: Sequence[Buffer] | None, error: BaseException | None) -> None:
        self.stream = None
        self._slots[0].reply = self._error(error) if error is not None else rest or ()
        self._release()
        self._connection.done_in_flight()

    def flow(self) -> None:
        """The client has stopped reading, or reads again."""
        if self.stream is not None:
            self.stream.flow(self._connection.writing_paused)
        self.fetch()

    def close(self) -> None:
        """The client has gone."""
        if self.stream is not None:
            self.stream.leave()
        while self._to_fetch:
            self._to_fetch.popleft()[1].close()
