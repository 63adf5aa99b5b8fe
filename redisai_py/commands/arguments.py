"""Arguments of commands, in the form of COMMAND DOCS; syntax lines and redis-cli's hints derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DEVICE", "KEY", "NAME", "TAG", "TENSOR", "TIMEOUT", "Argument", "counted", "flag", "option", "several"]

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
        """The argument in redis-cli's syntax notation: `[TAG tag]`, `key [key ...]`, `<a | b>`."""
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


def flag(token: str, optional: bool = False) -> Argument:
    """A keyword without a value: `META`."""
    return Argument(token.lower(), "pure-token", token, optional=optional)


def option(token: str, name: str, integer: bool = True) -> Argument:
    """An optional keyword with its value: `[TIMEOUT milliseconds]`."""
    return Argument(name, "integer" if integer else "string", token, optional=True)


def counted(token: str, count: str, item: Argument, optional: bool = True) -> Argument:
    """A keyword, a count and that many items: `INPUTS input_count tensor [tensor ...]`."""
    parts = (Argument(count, "integer"), several(item))
    return Argument(token.lower(), "block", token, optional=optional, arguments=parts)


def several(item: Argument, optional: bool = False, token: str = "") -> Argument:
    """One or more of an item, after a keyword if `token` is given: `BLOB chunk [chunk ...]`."""
    return Argument(item.name, item.type, token, optional=optional, multiple=True)


KEY = Argument("key", "key")
TENSOR = Argument("tensor", "key")
NAME = Argument("name", "string")
DEVICE = Argument("device", "string")
TAG = option("TAG", "tag", integer=False)
TIMEOUT = option("TIMEOUT", "milliseconds")
