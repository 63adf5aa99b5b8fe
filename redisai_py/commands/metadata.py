"""COMMAND INFO and COMMAND DOCS of our commands, as reply values, in the structure of Redis 7's replies."""

from __future__ import annotations

from typing import Any

from redisai_py.commands.spec import Argument, CommandSpec
from redisai_py.commands.table import COMMANDS
from redisai_py.resp_reply import SetOf, Simple

__all__ = ["command_docs", "command_info"]


def command_info(spec: CommandSpec) -> list[Any]:
    """COMMAND INFO's element: name, arity, flags, key positions, and four lists that RedisAI leaves empty.

    The arity is -1: RedisAI checks it itself, so its commands are registered without one.
    """
    flags = SetOf(Simple(flag.encode()) for flag in spec.flags)
    name = spec.name.lower()
    return [name, -1, flags, spec.first_key, spec.last_key, spec.step, SetOf(), [], [], []]


def command_docs(spec: CommandSpec) -> dict[bytes, Any]:
    """COMMAND DOCS' value for the command's name; `arguments` feed redis-cli's hints."""
    docs: dict[bytes, Any] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": b"module",
        b"complexity": spec.complexity.encode(),
        b"module": b"ai",
    }
    if spec.replaced_by:
        docs[b"doc_flags"] = SetOf([Simple(b"deprecated")])
        docs[b"deprecated_since"] = COMMANDS[spec.replaced_by.encode()].since.encode()
        docs[b"replaced_by"] = f"`{spec.replaced_by}`".encode()
    if spec.arguments:
        docs[b"arguments"] = [_argument_docs(argument) for argument in spec.arguments]
    return docs


def _argument_docs(argument: Argument) -> dict[bytes, Any]:
    docs: dict[bytes, Any] = {b"name": argument.name.encode(), b"type": argument.type.encode()}
    if argument.type not in ("oneof", "block"):
        docs[b"display_text"] = argument.name.encode()
    if argument.token:
        docs[b"token"] = argument.token.encode()
    flags = [
        Simple(name)
        for name, is_set in (
            (b"optional", argument.optional),
            (b"multiple", argument.multiple),
            (b"multiple_token", argument.multiple_token),
        )
        if is_set
    ]
    if flags:
        docs[b"flags"] = flags
    if argument.arguments:
        docs[b"arguments"] = [_argument_docs(part) for part in argument.arguments]
    return docs
