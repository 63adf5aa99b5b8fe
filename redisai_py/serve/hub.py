"""Passes messages between the front doors of one server and keeps their counts. Runs in the supervisor.

A front door sends

    {"op": "ask", "id": n, "what": ..., "figures": ...}   a question to all others, answered once
    {"op": "did", "id": m, "reply": ..., "figures": ...}  the reply to a `do`
    {"op": "figures", "figures": ...}                     its counts, every second
    {"op": "bye", "figures": {}}                          its last message; the hub disconnects

and receives

    {"op": "do", "id": m, "what": ...}                             another front door's question
    {"op": "answer", "id": n, "replies": [...], "figures": ...}    figures: the sums over all others

The hub itself acts on some questions (`what["kind"]`): `reset` and `forget` of a topic, and a first cache `rule`, also
change its own counts, and `set` is repeated to front doors that start later. `to` names the only front door to ask. A
front door that does not answer within `PATIENCE_S` is not waited for again until it has sent something; nor is one that
has just been started and has sent nothing yet. See docs/adr/0046.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from redisai_py.errors import ProtocolError
from redisai_py.serve.figures import Book
from redisai_py.serve.messages import Unpacker, pack

__all__ = ["PATIENCE_S", "Hub"]

PATIENCE_S = 1.0
_MOST_UNREAD = 32 * 1024 * 1024
"""Unread bytes after which a front door is given up."""
_MOST_SETTINGS = 100

log = structlog.get_logger()


class Hub:
    """Thread: the event loop's."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._questions: dict[int, _Question] = {}
        self._numbers = 0
        self._settings: dict[str, dict[str, Any]] = {}
        self.book = Book()

    async def join(self, door: int, line: socket.socket, broken: Callable[[], object]) -> None:
        """Connect a front door whose process is about to start.

        The connection stays open until the front door says goodbye or ends.

        Args: broken: called if the front door sends an invalid message, or does not read.
        """
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Line(door, self, broken), sock=line)
        self._lines[door] = made
        for what in self._settings.values():
            made.send({"op": "do", "id": 0, "what": what})

    def left(self, line: _Line) -> None:
        """Remove a front door whose process has ended; its counts are kept."""
        del self._lines[line.door]
        self.book.ended(line.door)
        for question in list(self._questions.values()):
            self._answered(question, line)

    def received(self, line: _Line, message: dict[str, Any]) -> None:
        """Handle a message. Raises: ProtocolError, TypeError, KeyError: the message is invalid."""
        op = message["op"]
        line.late = False
        self.book.tell(line.door, message["figures"])
        if op == "ask":
            self._ask(line, int(message["id"]), dict(message["what"]))
        elif op == "did":
            question = self._questions.get(message["id"])
            if question is not None and line in question.waits_for:
                question.replies.append(message["reply"])
                self._answered(question, line)
        elif op == "bye":
            line.close()
        elif op != "figures":
            raise ProtocolError(f"ERR unknown message {op!r}")

    def _ask(self, asker: _Line, their_id: int, what: dict[str, Any]) -> None:
        self._numbers += 1
        question = _Question(asker, their_id, self._numbers, what)
        self._take_note(what)
        only = what.get("to")
        for line in self._lines.values():
            if line is asker or (only is not None and line.door != only):
                continue
            if not line.late:
                question.waits_for.add(line)
            elif not what.get("changes"):  # late front doors get only what changes something
                continue
            line.send({"op": "do", "id": question.number, "what": what})
        self._questions[question.number] = question
        if question.waits_for:
            asyncio.get_running_loop().call_later(PATIENCE_S, self._expire, question)
        else:
            self._finish(question)

    def _take_note(self, what: dict[str, Any]) -> None:
        kind = what["kind"]
        if kind == "reset":
            self.book.reset(str(what["topic"]), ("loads",))
        elif kind == "forget" or (kind == "rule" and what["anew"]):
            self.book.forget(str(what["topic"]))
        elif kind == "set" and (what["name"] in self._settings or len(self._settings) < _MOST_SETTINGS):
            self._settings[str(what["name"])] = what

    def _answered(self, question: _Question, line: _Line) -> None:
        question.waits_for.discard(line)
        if not question.waits_for:
            self._finish(question)

    def _expire(self, question: _Question) -> None:
        if question.number in self._questions:
            for line in question.waits_for:
                line.late = True
                log.warning("a front door does not answer the others", door=line.door)
            self._finish(question)

    def _finish(self, question: _Question) -> None:
        if self._questions.pop(question.number, None) is None:
            return
        if question.what["kind"] in ("forget", "rule"):  # a front door may have reported it again before it knew
            self._take_note(question.what)
        topics = question.what.get("topics", [])
        figures = self.book.of_others(question.asker.door, topics)
        answer = {"op": "answer", "id": question.their_id, "replies": question.replies, "figures": figures}
        question.asker.send(answer)


@dataclass(eq=False)
class _Question:
    """A question that is not answered yet."""

    asker: _Line
    their_id: int
    number: int
    what: dict[str, Any]
    waits_for: set[_Line] = field(default_factory=set)
    replies: list[Any] = field(default_factory=list)


class _Line(asyncio.Protocol):
    """The supervisor's end of the line to one front door. late: it is not waited for, because it did not answer the
    last question in time, or still starts.
    """

    def __init__(self, door: int, hub: Hub, broken: Callable[[], object]) -> None:
        self.door = door
        self.late = True
        self._hub = hub
        self._broken = broken
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._unpacker.feed(data):
                self._hub.received(self, message)
        except (ProtocolError, TypeError, KeyError, ValueError, AttributeError) as error:
            self._give_up(f"invalid message from a front door: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._hub.left(self)

    def close(self) -> None:
        """Disconnect: the front door has said everything, and awaits no answer."""
        if self._transport is not None:
            self._transport.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send this, unless the process has ended."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        try:
            transport.write(pack(message))
        except ProtocolError as error:
            log.error("an answer to a front door is too long", error=str(error))
        if transport.get_write_buffer_size() > _MOST_UNREAD:
            self._give_up("a front door does not read its messages")

    def _give_up(self, why: str) -> None:
        log.error(why, door=self.door)
        if self._transport is not None:
            self._transport.abort()
        self._broken()
