"""MULTI on one connection, with AI commands in it.

TENSORSET, TENSORGET, the GET and the DEL commands become plain Redis commands queued in the same transaction, so
they take part atomically; EXEC's reply is taken apart and their elements are put into AI form. Run commands and
stores reply QUEUED and fail in their element, as RedisAI's do; nothing of Redis's own replies is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import hiredis

from redisai_py.ai.admin import (
    INFO_FIELDS,
    NEEDS_CONFIG,
    change_setting,
    check_config_right,
    info_report,
    setting,
)
from redisai_py.commands import COMMANDS, admin, models, scripts, tensors
from redisai_py.commands.checks import TensorExists, TensorOrAbsent
from redisai_py.commands.models import model_reply
from redisai_py.commands.scripts import script_reply
from redisai_py.commands.tensors import tensor_reply
from redisai_py.errors import (
    MODEL_KEY_EMPTY,
    NO_RUN_INFO,
    SCRIPT_KEY_EMPTY,
    TENSOR_KEY_EMPTY,
    CommandError,
    MissingKey,
    RedisAIError,
    WrongType,
)
from redisai_py.frontdoor.driver import NO_REPLY
from redisai_py.model import Kind
from redisai_py.ops.keymap import Place
from redisai_py.resp.reader import split_replies
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import OK, encode_reply
from redisai_py.resp.templates import Command
from redisai_py.store import codec
from redisai_py.store.lua import DELETE_KIND, SET_TENSORS
from redisai_py.tensor import Buffer, Tensor

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["Transaction"]

_REFUSED_RUN = CommandError("ERR Cannot run RedisAI command within a transaction or a LUA script")
_NOT_IN_MULTI = frozenset(
    (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE", b"MONITOR", b"SYNC",
     b"PSYNC", b"AUTH", b"HELLO", b"CLIENT")
)  # fmt: skip
_LEAVING = frozenset((b"RESET", b"QUIT"))

Finish = Callable[[list[Any]], Any]
"""Replies of the plain commands that stand for an AI command -> its reply value."""


class _Slot:
    """One element of EXEC's reply. count: plain commands behind it.   finish: None for a command of Redis's own."""

    __slots__ = ("count", "finish", "select")

    def __init__(self, count: int = 1, finish: Finish | None = None, select: int | None = None) -> None:
        self.count = count
        self.finish = finish
        self.select = select


class Transaction:
    """The commands queued since MULTI."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots: list[_Slot] = []
        self._dirty = False

    def start(self, meaning: Any, command: Command) -> bool:
        """Queue a command, or end the transaction."""
        connection = self._connection
        if not connection.idle:
            return False
        if meaning.is_ai:
            return connection.run_alone(self._queue_ai(meaning, command))
        name = bytes(command.argv[0]).upper()
        if name == b"EXEC" and len(command.argv) == 1:
            return connection.run_alone(self._exec())
        if name == b"DISCARD" and len(command.argv) == 1:
            return connection.run_alone(self._discard(b"DISCARD"))
        if name in _LEAVING:
            return bool(meaning.start(connection, command))
        if name in _NOT_IN_MULTI:
            return connection.run_alone(self._refuse(name))
        return connection.run_alone(self._queue_plain(command, name))

    async def _refuse(self, name: bytes) -> object:
        self._dirty = True
        raise CommandError(f"ERR {name.decode()} is not supported inside MULTI by redisai_py")

    async def _queue_plain(self, command: Command, name: bytes) -> object:
        (raw,) = await self._connection.session.capture([command.argv])
        if raw == b"+QUEUED\r\n":
            select = int(command.argv[1]) if name == b"SELECT" and bytes(command.argv[1]).isdigit() else None
            self._slots.append(_Slot(select=select))
        self._connection.write((raw,))
        return NO_REPLY

    async def _queue_ai(self, meaning: Any, command: Command) -> object:
        try:
            commands, finish = await self._translate(meaning, command)
        except RedisAIError:  # Redis knows nothing of it, and would execute the others
            self._dirty = True
            raise
        raw = b"+QUEUED\r\n"
        if commands:
            answers = await self._connection.session.capture(commands)
            raw = next((answer for answer in answers if answer != raw), raw)
        self._slots.append(_Slot(len(commands), finish))
        self._connection.write((raw,))
        return NO_REPLY

    async def _translate(self, meaning: Any, command: Command) -> tuple[list[list[Any]], Finish]:
        """The plain commands that stand for an AI command here, none if its element is an error."""
        spec = COMMANDS[bytes(command.argv[0]).upper()]
        if spec.in_multi == "refused":
            return [], _raise(_REFUSED_RUN)
        error = getattr(meaning, "error", None)
        if error is not None:
            return _failing(error)
        request = meaning.request
        if isinstance(request, tensors.TensorSet):
            return await self._tensor_set(request)
        translate = _TRANSLATIONS.get(type(request))
        if translate is None:
            name = spec.name.decode().upper()
            return [], _raise(CommandError(f"ERR {name} cannot take part in a transaction with redisai_py"))
        return translate(request, self._connection)

    async def _tensor_set(self, request: tensors.TensorSet) -> tuple[list[list[Any]], Finish]:
        value = (codec.encode_header(request.tensor), request.tensor.data)
        access = await self._connection.session.authenticated_in_multi()

        def finish(replies: list[Any]) -> Any:
            access.forget((request.key,))
            _checked(replies[0])
            return OK

        if access.scripting:
            return [[b"EVAL", SET_TENSORS, b"1", request.key, value]], finish
        try:
            await access.store.check_tensor_or_absent(request.key)
        except RedisAIError as error:
            return [], _raise(error)
        return [[b"SET", request.key, value]], finish

    async def _discard(self, verb: bytes) -> object:
        (raw,) = await self._connection.session.capture([[verb]])
        self._leave()
        self._connection.write((raw,))
        return NO_REPLY

    def _leave(self) -> None:
        self._connection.session.leave_transaction()

    async def _exec(self) -> object:
        session = self._connection.session
        if self._dirty:
            await session.capture([[b"DISCARD"]])
            self._leave()
            raise CommandError("EXECABORT Transaction discarded because of previous errors.")
        (raw,) = await session.capture([[b"EXEC"]])
        self._leave()
        line = raw.find(b"\r\n")
        if raw[:1] == b"*" and raw[1:line] != b"-1":
            count = int(raw[1:line])
            answers = split_replies(raw, line + 2, count)
            assert answers is not None
            self._select(answers)
            self._connection.write(self._assemble(answers))
        else:
            self._connection.write((raw,))
        return NO_REPLY

    def _select(self, answers: Sequence[bytes]) -> None:
        at = 0
        for slot in self._slots:
            if slot.select is not None and answers[at] == b"+OK\r\n":
                self._connection.session.select(slot.select)
            at += slot.count

    def _assemble(self, answers: Sequence[bytes]) -> list[Buffer]:
        segments: list[Buffer] = [b"*%d\r\n" % len(self._slots)]
        at = 0
        for slot in self._slots:
            part = answers[at : at + slot.count]
            at += slot.count
            if slot.finish is None:
                segments += part
                continue
            try:
                value = slot.finish([_parse(raw) for raw in part])
            except RedisAIError as error:
                value = error
            segments += encode_reply(value, self._connection.session.protocol)
        return segments


def _parse(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


def _raise(error: RedisAIError) -> Finish:
    def finish(_: list[Any]) -> Any:
        raise error

    return finish


def _failing(error: CommandError) -> tuple[list[list[Any]], Finish]:
    """A command with a syntax error: the look-up of its tensor, which comes before that error, is made in its place."""
    check = next((item for item in error.checks if isinstance(item, (TensorExists, TensorOrAbsent))), None)
    if check is None:
        return [], _raise(error)

    def finish(replies: list[Any]) -> Any:
        value = _checked(replies[0])
        if isinstance(check, TensorOrAbsent):
            if value or replies[1]:
                codec.read_header(value[: codec.header_size(value)])
        elif value is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        else:
            codec.decode_tensor(value)
        raise error

    if isinstance(check, TensorExists):
        return [[b"GET", check.key]], finish
    return [[b"GETRANGE", check.key, b"0", b"%d" % (codec.MAX_HEADER + 7)], [b"EXISTS", check.key]], finish


def _checked(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        raise redis_error(reply)
    return reply


def _tensor_get(request: tensors.TensorGet, connection: Connection) -> tuple[list[list[Any]], Finish]:
    def finish(replies: list[Any]) -> Any:
        value = _checked(replies[0])
        if value is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        tensor: Tensor = codec.decode_tensor(value)
        return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)

    return [[b"GET", request.key]], finish


def _model_get(request: models.ModelGet, connection: Connection) -> tuple[list[list[Any]], Finish]:
    def finish(replies: list[Any]) -> Any:
        kind, flat = replies[0], _checked(replies[1])
        if kind == b"none":
            raise MissingKey(MODEL_KEY_EMPTY)
        fields = dict(flat) if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        model, chunks = codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])
        try:
            blob = b"".join(fields[b"blob:%d" % i] for i in range(chunks))
        except KeyError:
            raise WrongType from None
        return model_reply(request, codec.with_blob(model, blob), connection.server.model_chunk_size)

    return [[b"TYPE", request.key], [b"HGETALL", request.key]], finish


def _script_get(request: scripts.ScriptGet, connection: Connection) -> tuple[list[list[Any]], Finish]:
    def finish(replies: list[Any]) -> Any:
        if replies[0] == b"none":
            raise MissingKey(SCRIPT_KEY_EMPTY)
        return script_reply(request, codec.decode_script(_checked(replies[1])))

    return [[b"TYPE", request.key], [b"HMGET", request.key, *codec.SCRIPT_FIELDS]], finish


def _delete(kind: Kind, missing: str) -> Callable[[Any, Connection], tuple[list[list[Any]], Finish]]:
    def translate(request: Any, connection: Connection) -> tuple[list[list[Any]], Finish]:
        def finish(replies: list[Any]) -> Any:
            if not _checked(replies[0]):
                raise MissingKey(missing)
            place = Place(kind, connection.session.identity.database, request.key)
            connection.server.loading.gone(place)
            return OK

        return [[b"EVAL", DELETE_KIND, b"1", request.key, kind.value]], finish

    return translate


def _info(request: admin.Info, connection: Connection) -> tuple[list[list[Any]], Finish]:
    def finish(replies: list[Any]) -> Any:
        try:
            fields = _checked(replies[0])
        except WrongType:
            raise MissingKey(NO_RUN_INFO) from None
        return info_report(request, fields, connection)

    return [[b"HMGET", request.key, *INFO_FIELDS]], finish


def _config_get(request: admin.ConfigGet, connection: Connection) -> tuple[list[list[Any]], Finish]:
    return [], lambda replies: setting(request.name, connection.server)


def _config_set(request: admin.ConfigSet, connection: Connection) -> tuple[list[list[Any]], Finish]:
    def finish(replies: list[Any]) -> Any:
        check_config_right(str(replies[0]))
        return change_setting(request, connection.server)

    return [list(NEEDS_CONFIG)], finish


_TRANSLATIONS: dict[type, Callable[[Any, Connection], tuple[list[list[Any]], Finish]]] = {
    tensors.TensorGet: _tensor_get,
    models.ModelGet: _model_get,
    models.ModelDel: _delete(Kind.MODEL, MODEL_KEY_EMPTY),
    scripts.ScriptGet: _script_get,
    scripts.ScriptDel: _delete(Kind.SCRIPT, SCRIPT_KEY_EMPTY),
    admin.Info: _info,
    admin.ConfigGet: _config_get,
    admin.ConfigSet: _config_set,
}
