"""Asks the other front doors of this server, if it has several, through the supervisor (`redisai_py.serve.hub`).

A question goes to all others. The answer holds their replies, and the sums of the counts of all others, ended front
doors included. The asker sends its own counts with the question and adds them to those sums. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from redisai_py.errors import ProtocolError, RedisAIError
from redisai_py.pending import Pending
from redisai_py.serve.messages import LONGEST, Unpacker, pack

__all__ = ["ALONE", "Answer", "Handler", "LinkedSiblings", "Reply", "Siblings"]

_PATIENCE_S = 5.0
"""Seconds to wait for the supervisor. It answers within one second unless it is suspended itself."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """replies: of the others that answered.   figures: sums by topic over all others, ended front doors included."""

    replies: list[Any] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to another front door.   figures: this process's counts, by topic."""

    reply: Any = None
    figures: Mapping[str, Any] = field(default_factory=dict)


Handler = Callable[[dict[str, Any]], Coroutine[Any, Any, Reply]]


class Siblings:
    """No siblings: this process is the whole server."""

    alone = True

    def ask(self, what: dict[str, Any], figures: Mapping[str, Any]) -> Pending[Answer]:
        """Ask all others. what: `kind`, and the `topics` whose sums are wanted (None: all).   figures: own counts.

        Fails with a RedisAIError if the supervisor does not answer.
        """
        pending: Pending[Answer] = Pending()
        pending.resolve(Answer())
        return pending

    def notify(self, what: dict[str, Any]) -> None:
        """Send this to all others without waiting for their replies."""

    def report(self, figures: Mapping[str, Any]) -> None:
        """Report this process's counts to the supervisor."""

    async def open(self, handler: Handler) -> None:
        """Connect. handler: answers the others' questions."""

    async def close(self) -> None:
        """Disconnect once the supervisor has read everything."""


ALONE = Siblings()


class LinkedSiblings(Siblings, asyncio.Protocol):
    """Args: line: a socket connected to the supervisor."""

    alone = False

    def __init__(self, loop: asyncio.AbstractEventLoop, line: socket.socket) -> None:
        self._loop = loop
        self._line = line
        self._handler: Handler | None = None
        self._transport: Any = None
        self._unpacker = Unpacker()
        self._asked: dict[int, Pending[Answer]] = {}
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    async def open(self, handler: Handler) -> None:
        """Connect. handler: answers the others' questions; it must not raise."""
        self._handler = handler
        await self._loop.create_connection(lambda: self, sock=self._line)
        self._send({"op": "figures", "figures": {}})  # from now on the others wait for its answers

    async def close(self) -> None:
        """Disconnect once the supervisor has read everything, or does not read in time.

        The supervisor disconnects, because what it has not read yet is lost if it writes to a closed socket.
        """
        if self._send({"op": "bye", "figures": {}}):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _PATIENCE_S)
        if self._transport is not None:
            self._transport.close()

    def ask(self, what: dict[str, Any], figures: Mapping[str, Any]) -> Pending[Answer]:
        self._numbers += 1
        number = self._numbers
        pending: Pending[Answer] = Pending()
        self._asked[number] = pending
        timer = self._loop.call_later(_PATIENCE_S, self._expire, number)
        if not self._send({"op": "ask", "id": number, "what": what, "figures": figures}):
            timer.cancel()
            self._expire(number)
        return pending

    def notify(self, what: dict[str, Any]) -> None:
        pending = self.ask({**what, "changes": True}, {})
        pending.waiter = _ignore

    def report(self, figures: Mapping[str, Any]) -> None:
        if figures:
            self._send({"op": "figures", "figures": figures})

    def _expire(self, number: int) -> None:
        pending = self._asked.pop(number, None)
        if pending is not None:
            pending.fail(RedisAIError("ERR the server's other front doors cannot be asked now"))

    def _send(self, message: dict[str, Any]) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > LONGEST:
            return False
        try:
            transport.write(pack(message))
        except ProtocolError as error:
            logger.error("a message to the other front doors is too long", error=str(error))
            return False
        return True

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            if message["op"] == "answer":
                pending = self._asked.pop(message["id"], None)
                if pending is not None:
                    pending.resolve(Answer(message["replies"], message["figures"]))
            else:
                task = self._loop.create_task(self._do(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _do(self, message: dict[str, Any]) -> None:
        assert self._handler is not None
        done = Reply()
        try:
            done = await self._handler(message["what"])
        except Exception:
            logger.exception("a question of another front door failed", kind=message["what"].get("kind"))
        self._send({"op": "did", "id": message["id"], "reply": done.reply, "figures": done.figures})

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._gone.set()
        for number in list(self._asked):
            self._loop.call_soon(functools.partial(self._expire, number))


def _ignore(pending: Pending[Answer]) -> None:
    if pending.error is not None:
        logger.warning("other front doors may not know of a change", error=str(pending.error))
