"""A row of the command table: a command's parser, its metadata, its arguments and examples.

Also what rows of several families share: sets of flags, parsers, and functions that find a command's keys. These read
words without checking the rest, for COMMAND GETKEYS and cluster routing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from redisai_py.commands._args import Argv, is_word, strict_integer, to_bytes
from redisai_py.commands.arguments import Argument
from redisai_py.errors import CommandError, WrongArity

__all__ = [
    "DELETE",
    "INVALID_KEYS",
    "READ",
    "READ_RUN",
    "RUN",
    "WRITE",
    "CommandSpec",
    "InMulti",
    "counted_scopes",
    "key_alone",
    "key_and_parts",
    "no_keys",
    "nothing",
    "only_key",
    "run_keys",
]

WRITE = ("write", "denyoom", "module")
DELETE = ("write", "module")
READ = ("readonly", "module")
RUN = ("write", "denyoom", "module", "movablekeys")
READ_RUN = ("readonly", "module", "movablekeys")

INVALID_KEYS = "ERR Invalid arguments specified for command"

InMulti = Literal["takes part", "may fail", "refused"]
"""In MULTI: takes part in the transaction; takes part or fails in its slot of EXEC; always fails in its slot."""


def no_keys(argv: Argv) -> list[bytes]:
    """A command without keys. Raises: CommandError, as COMMAND GETKEYS answers."""
    raise CommandError("ERR The command has no key arguments")


def only_key(argv: Argv) -> list[bytes]:
    """The word after the name. Raises: CommandError if there is none."""
    if len(argv) < 2:
        raise CommandError(INVALID_KEYS)
    return [to_bytes(argv[1])]


def counted_scopes(argv: Argv, at: int, scopes: tuple[bytes, ...]) -> Iterator[bytes]:
    """The words of `SCOPE n word...` lists from `at` on, for the given scopes; other lists are skipped."""
    while at + 1 < len(argv):
        count = strict_integer(argv[at + 1])
        if count is None or count < 0:
            return
        end = min(at + 2 + count, len(argv))
        if any(is_word(argv[at], scope) for scope in scopes):
            yield from map(to_bytes, argv[at + 2 : end])
        # TIMEOUT ends a command, so it does not matter that its value is read as a count.
        at = end


def run_keys(argv: Argv) -> list[bytes]:
    """AI.MODELRUN and AI.SCRIPTRUN: the model or script, then every word after INPUTS except OUTPUTS and `$`."""
    keys = only_key(argv)
    inputs_at = next((at for at in range(2, len(argv)) if is_word(argv[at], b"INPUTS")), len(argv))
    words = argv[inputs_at + 1 :]
    return keys + [to_bytes(word) for word in words if not is_word(word, b"OUTPUTS") and word != b"$"]


def key_alone(request: Callable[[bytes], Any]) -> Callable[[Argv], Any]:
    """The parser of a command with a key and nothing else. It raises WrongArity."""

    def parse(argv: Argv) -> Any:
        if len(argv) != 2:
            raise WrongArity(bytes(argv[0]))
        return request(to_bytes(argv[1]))

    return parse


def key_and_parts(request: Callable[[bytes, bool, bool], Any], content: bytes) -> Callable[[Argv], Any]:
    """The parser of `NAME key [META] [content]`: META, the content, or without either both; other words are ignored.

    It raises WrongArity.
    """

    def parse(argv: Argv) -> Any:
        if not 2 <= len(argv) <= 4:
            raise WrongArity(bytes(argv[0]))
        meta, whole = (any(is_word(word, part) for word in argv[2:]) for part in (b"META", content))
        return request(to_bytes(argv[1]), meta or not whole, whole or not meta)

    return parse


def nothing(request: Callable[[], Any]) -> Callable[[Argv], Any]:
    """The parser of a command without arguments. It raises WrongArity."""

    def parse(argv: Argv) -> Any:
        if len(argv) != 1:
            raise WrongArity(bytes(argv[0]))
        return request()

    return parse


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command.

    name: upper case.   request: the type (or types) that `parse` returns.   parse: words, the name first -> request.
    arity: as in Redis: exactly n words, or at least -n.   flags: of COMMAND INFO.
    first_key: position of the first key in COMMAND INFO, 0 without keys; the step is 1, and the last key is the first.
    keys: words -> keys, as in COMMAND GETKEYS.   in_dag: may be an operation of a DAG.
    origin: the program that introduced the command.   since: its version.   group: page of the docs.
    replaced_by: the command to use instead of a deprecated one.
    examples: pairs of words and reply. `<bytes>` and `<text>` stand for data; a reply is written `+simple`, `-error`,
    `:integer`, `"bulk"` or `[array]`.
    """

    name: bytes
    request: tuple[type, ...]
    parse: Callable[..., Any]
    arity: int
    flags: tuple[str, ...]
    in_multi: InMulti
    summary: str
    since: str
    group: str
    complexity: str
    examples: tuple[tuple[str, str], ...]
    arguments: tuple[Argument, ...] = ()
    first_key: int = 1
    keys: Callable[[Argv], list[bytes]] = only_key
    in_dag: bool = False
    replaced_by: str = ""
    origin: str = "RedisAI"

    def accepts(self, words: int) -> bool:
        """Whether a command may have this many words, the name included."""
        return words == self.arity if self.arity > 0 else words >= -self.arity

    @property
    def last_key(self) -> int:
        """Position of the last key in COMMAND INFO."""
        return self.first_key

    @property
    def step(self) -> int:
        """Distance between keys in COMMAND INFO, 0 without keys."""
        return 1 if self.first_key else 0

    @property
    def syntax(self) -> str:
        """The syntax line: name and arguments."""
        return " ".join([self.name.decode(), *(argument.syntax() for argument in self.arguments)])
