"""AI commands inside MULTI: each becomes plain Redis commands in the client's own transaction, and its element of
EXEC's reply is built from their replies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from redisai_py.commands.checks import TensorExists, TensorOrAbsent
from redisai_py.errors import TENSOR_KEY_EMPTY, CommandError, MissingKey, RedisAIError
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind
from redisai_py.ops.keymap import ProgramKey
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import OK
from redisai_py.store import codec
from redisai_py.store.lua import DELETE_KIND

__all__ = ["Finish", "InMulti", "checked", "deletion", "failing", "raising"]

Finish = Callable[[list[Any]], Any]
"""Replies of the plain commands -> the AI command's reply value, or what gives it; may raise RedisAIError."""
InMulti = tuple[list[list[Any]], Finish]
"""The plain commands, none if the element is already known, and the function that builds the element."""


def checked(reply: Any) -> Any:
    """Check that a reply is not an error. Raises: RedisAIError."""
    if isinstance(reply, hiredis.ReplyError):
        raise redis_error(reply)
    return reply


def raising(error: RedisAIError) -> InMulti:
    """A command whose element is this error."""

    def finish(_: list[Any]) -> Any:
        raise error

    return [], finish


def failing(error: CommandError) -> InMulti:
    """A command with a syntax error: makes the look-up of its tensor, which precedes that error."""
    check = next((item for item in error.checks if isinstance(item, (TensorExists, TensorOrAbsent))), None)
    if check is None:
        return raising(error)

    def finish(replies: list[Any]) -> Any:
        value = checked(replies[0])
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


def deletion(kind: Kind, missing: str) -> Callable[[Any, Turn], InMulti]:
    """AI.MODELDEL, AI.SCRIPTDEL. missing: the error's text if the key does not exist."""

    def translate(request: Any, turn: Turn) -> InMulti:
        def finish(replies: list[Any]) -> Any:
            if not checked(replies[0]):
                raise MissingKey(missing)
            program_key = ProgramKey(kind, turn.session.identity.database, request.key)
            turn.services.programs.record_deleted(program_key)
            return OK

        return [[b"EVAL", DELETE_KIND, b"1", request.key, kind.value]], finish

    return translate
