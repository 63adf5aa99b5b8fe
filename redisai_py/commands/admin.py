"""AI.INFO and AI.CONFIG: words to requests. Source: AI.INFO, AI.CONFIG; `AI.INFO key FULL` is ours."""

from __future__ import annotations

from dataclasses import dataclass

from redisai_py.commands._args import Argv, is_word, name_text, strict_integer, to_bytes
from redisai_py.commands.models import parse_backend
from redisai_py.errors import CommandError, WrongArity

__all__ = [
    "ConfigGet",
    "ConfigSet",
    "Info",
    "LoadBackend",
    "parse_config",
    "parse_info",
]

_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Info:
    """Report run statistics of a model or script. reset: zero them instead.   full: histograms and batch sizes too."""

    key: bytes
    reset: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class ConfigGet:
    """Read one setting. name: upper case; an unknown one is answered with null."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigSet:
    """Change one setting at run time. name: BACKENDSPATH (value: text) or MODEL_CHUNK_SIZE (value: bytes, > 0)."""

    name: str
    value: str | int


@dataclass(frozen=True, slots=True)
class LoadBackend:
    """Import a backend now. path: what RedisAI's clients send; only installed plugins are loaded."""

    backend: str
    path: str


def parse_info(argv: Argv) -> Info:
    """`AI.INFO key [RESETSTAT | FULL]`; another third word is ignored. Raises: WrongArity."""
    if not 2 <= len(argv) <= 3:
        raise WrongArity(bytes(argv[0]))
    option = argv[-1] if len(argv) == 3 else b""
    return Info(to_bytes(argv[1]), is_word(option, b"RESETSTAT"), is_word(option, b"FULL"))


def parse_config(argv: Argv) -> ConfigGet | ConfigSet | LoadBackend:
    """`AI.CONFIG GET name | LOADBACKEND backend path | BACKENDSPATH path | MODEL_CHUNK_SIZE n`; more words are ignored.

    Raises: WrongArity, CommandError.
    """
    if len(argv) < 2:
        raise WrongArity(bytes(argv[0]))
    name = bytes(argv[1][:_LONGEST_NAME]).upper()
    if name == b"GET":
        if len(argv) < 3:
            raise WrongArity(bytes(argv[0]))
        return ConfigGet(name_text(argv[2]).upper())
    if name == b"LOADBACKEND":
        if len(argv) < 4:
            raise WrongArity(bytes(argv[0]))
        return LoadBackend(parse_backend(argv[2]), name_text(argv[3]))
    if name == b"BACKENDSPATH":
        if len(argv) < 3:
            raise CommandError("ERR BACKENDSPATH: missing path argument")
        return ConfigSet("BACKENDSPATH", name_text(argv[2]))
    if name == b"MODEL_CHUNK_SIZE":
        return ConfigSet("MODEL_CHUNK_SIZE", _chunk_size(argv))
    raise CommandError("ERR unsupported subcommand")


def _chunk_size(argv: Argv) -> int:
    if len(argv) < 3:
        raise CommandError("ERR MODEL_CHUNK_SIZE: missing chunk size")
    size = strict_integer(argv[2])
    if size is None or size <= 0:
        raise CommandError("ERR MODEL_CHUNK_SIZE: invalid chunk size")
    return size
