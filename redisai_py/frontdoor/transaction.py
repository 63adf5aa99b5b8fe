"""MULTI on one connection, with AI commands in it.

TENSORSET, TENSORGET, the GET and the DEL commands become plain Redis commands queued in the same transaction, so they
take part atomically; EXEC's reply is taken apart, and their elements are converted. Run commands and stores reply
QUEUED and fail in their element, as RedisAI's do. A wrong number of arguments in any other command is an immediate
error, and EXEC then executes nothing, as for Redis's own commands. Redis's own replies are unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redisai_py.ai.multi import Finish, InMulti, raising
from redisai_py.commands import COMMANDS
from redisai_py.errors import CommandError, RedisAIError, WrongArity
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.session import Session
from redisai_py.resp.reader import parse_reply, split_replies
from redisai_py.resp.replies import encode_reply
from redisai_py.resp.templates import Command
from redisai_py.tensor import Buffer

__all__ = ["Transaction"]

_REFUSED_RUN = CommandError("ERR Cannot run RedisAI command within a transaction or a LUA script")
_NOT_IN_MULTI = frozenset(
    (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE", b"MONITOR", b"SYNC",
     b"PSYNC", b"AUTH", b"HELLO", b"CLIENT")
)  # fmt: skip
_LEAVING = frozenset((b"RESET", b"QUIT"))


@dataclass(slots=True)
class _Slot:
    """One element of EXEC's reply. count: its number of plain commands.   finish: None for one of Redis's commands."""

    count: int = 1
    finish: Finish | None = None
    select: int | None = None


class Transaction:
    """The commands queued since MULTI."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._slots: list[_Slot] = []
        self._dirty = False

    def start(self, action: Any, command: Command) -> bool:
        """Queue a command, or end the transaction."""
        turn = self._session.turn
        if not turn.idle:
            return False
        if action.is_ai:
            return turn.run_alone(self._queue_ai(action, command))
        name = bytes(command.argv[0]).upper()
        if name == b"EXEC" and len(command.argv) == 1:
            return turn.run_alone(self._exec())
        if name == b"DISCARD" and len(command.argv) == 1:
            return turn.run_alone(self._discard())
        if name in _LEAVING:
            return bool(action.start(self._session, command))
        if name in _NOT_IN_MULTI:
            return turn.run_alone(self._refuse(name))
        return turn.run_alone(self._queue_plain(command, name))

    async def _refuse(self, name: bytes) -> object:
        self._dirty = True
        raise CommandError(f"ERR {name.decode()} is not supported inside MULTI by redisai_py")

    async def _queue_plain(self, command: Command, name: bytes) -> object:
        raw = await self._session.ask(command.argv)
        if raw == b"+QUEUED\r\n":
            select = int(command.argv[1]) if name == b"SELECT" and bytes(command.argv[1]).isdigit() else None
            self._slots.append(_Slot(select=select))
        return self._session.pass_on(raw)

    async def _queue_ai(self, action: Any, command: Command) -> object:
        try:
            commands, finish = await self._translate(action, command)
        except RedisAIError:  # Redis does not know of it, and would execute the others
            self._dirty = True
            raise
        raw = b"+QUEUED\r\n"
        if commands:
            answers = await self._session.capture(commands)
            raw = next((answer for answer in answers if answer != raw), raw)
        self._slots.append(_Slot(len(commands), finish))
        return self._session.pass_on(raw)

    async def _translate(self, action: Any, command: Command) -> InMulti:
        """The plain commands for an AI command, none if its element is an error.

        Raises: CommandError: it has too few arguments, or too many.
        """
        spec = COMMANDS[bytes(command.argv[0]).upper()]
        if spec.in_multi == "refused":
            return raising(_REFUSED_RUN)
        if not spec.accepts(len(command.argv)):
            raise WrongArity(bytes(command.argv[0]))
        translated: InMulti = await action.in_multi(self._session.turn)
        return translated

    async def _discard(self) -> object:
        raw = await self._session.ask([b"DISCARD"])
        self._session.leave_transaction()
        return self._session.pass_on(raw)

    async def _exec(self) -> object:
        session = self._session
        if self._dirty:
            await session.ask([b"DISCARD"])
            self._session.leave_transaction()
            raise CommandError("EXECABORT Transaction discarded because of previous errors.")
        raw = await session.ask([b"EXEC"])
        self._session.leave_transaction()
        line = raw.find(b"\r\n")
        if raw[:1] != b"*" or raw[1:line] == b"-1":
            return session.pass_on(raw)
        answers = split_replies(raw, line + 2, int(raw[1:line]))
        assert answers is not None
        self._select(answers)
        session.turn.write(await self._assemble(answers))
        return NO_REPLY

    def _select(self, answers: Sequence[bytes]) -> None:
        at = 0
        for slot in self._slots:
            if slot.select is not None and answers[at] == b"+OK\r\n":
                self._session.select(slot.select)
            at += slot.count

    async def _assemble(self, answers: Sequence[bytes]) -> list[Buffer]:
        segments: list[Buffer] = [b"*%d\r\n" % len(self._slots)]
        at = 0
        for slot in self._slots:
            part = answers[at : at + slot.count]
            at += slot.count
            if slot.finish is None:
                segments += part
                continue
            try:
                value = slot.finish(list(map(parse_reply, part)))
                if inspect.isawaitable(value):
                    value = await value
            except RedisAIError as error:
                value = error
            segments += encode_reply(value, self._session.protocol)
        return segments
