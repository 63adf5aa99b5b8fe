"""A row of the command table: one command's parser, its metadata, and its arguments as COMMAND DOCS shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from redisai_py.commands._args import Argv

__all__ = ["Argument", "CommandSpec", "InMulti"]

InMulti = Literal["takes part", "may fail", "refused"]
"""Inside MULTI: takes part in the transaction; takes part or fails in its slot of EXEC; always fails in its slot."""

ArgumentType = Literal["string", "integer", "key", "pattern", "pure-token", "oneof", "block"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, in the structure of COMMAND DOCS.

    token: keyword before the argument.   multiple: may be repeated, with its token if `multiple_token`.
    arguments: the alternatives of a oneof, the parts of a block.
    """

    name: str
    type: ArgumentType
    token: str = ""
    optional: bool = False
    multiple: bool = False
    multiple_token: bool = False
    arguments: tuple[Argument, ...] = ()

    def syntax(self) -> str:
        """The argument in a syntax line, as redis-cli writes it: `[TAG tag]`, `key [key ...]`, `<a | b>`."""
        if self.type == "pure-token":
            text = self.token
        else:
            inner = self._inner()
            text = f"{self.token} {inner}" if self.token else inner
            if self.multiple:
                again = text if self.multiple_token or not self.token else inner
                text = f"{text} [{again} ...]"
        if self.optional:
            return f"[{text}]"
        return f"<{text}>" if self.type == "oneof" else text

    def _inner(self) -> str:
        if self.type == "oneof":
            return " | ".join(argument.syntax() for argument in self.arguments)
        if self.type == "block":
            return " ".join(argument.syntax() for argument in self.arguments)
        return self.name


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command.

    name: upper case.   request: type (or types) that `parse` gives.   parse: words, the name first -> request.
    arity: as Redis counts it: n words exactly, or at least -n.   flags, first_key, last_key, step: COMMAND INFO's.
    keys: words -> keys, as COMMAND GETKEYS names them.   in_dag: may be an operation of some DAG.
    since: RedisAI's version.
    replaced_by: what to use instead, for deprecated commands.
    """

    name: bytes
    request: tuple[type, ...]
    parse: Callable[[Argv], Any]
    arity: int
    flags: tuple[str, ...]
    first_key: int
    last_key: int
    step: int
    keys: Callable[[Argv], list[bytes]]
    in_dag: bool
    in_multi: InMulti
    arguments: tuple[Argument, ...]
    summary: str
    since: str
    group: str
    complexity: str
    replaced_by: str = ""

    @property
    def syntax(self) -> str:
        """One line: the name and its arguments."""
        return " ".join([self.name.decode(), *(argument.syntax() for argument in self.arguments)])
