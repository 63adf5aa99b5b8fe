"""AI.INFO and AI.CONFIG: requests, parsers, replies and rows.

`AI.INFO key FULL` is ours. Source: AI.INFO, AI.CONFIG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redisai_py.commands._args import Argv, is_word, name_text, strict_integer, text_name, to_bytes
from redisai_py.commands.arguments import KEY, Argument, flag
from redisai_py.commands.backends import parse_backend
from redisai_py.commands.spec import DELETE, READ, CommandSpec, no_keys
from redisai_py.config import MIN_CHUNK_SIZE
from redisai_py.errors import CommandError, WrongArity
from redisai_py.model import Kind
from redisai_py.resp.replies import Reply

__all__ = [
    "ROWS",
    "ConfigGet",
    "ConfigSet",
    "Info",
    "LoadBackend",
    "RunInfo",
    "info_reply",
]

_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Info:
    """Run statistics of a model or script. reset: reset them instead.   full: add histograms and batch sizes."""

    key: bytes
    reset: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class ConfigGet:
    """Read a setting. name: upper case; an unknown one gives null."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigSet:
    """Change a setting at run time. name: BACKENDSPATH (value: text) or MODEL_CHUNK_SIZE (value: bytes, at least
    64 KiB)."""

    name: str
    value: str | int


@dataclass(frozen=True, slots=True)
class LoadBackend:
    """Import a backend now. path: sent by RedisAI's clients, ignored; only installed plugins are loaded."""

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
    if size < MIN_CHUNK_SIZE:
        raise CommandError(f"ERR MODEL_CHUNK_SIZE: {size} is less than the smallest chunk size, {MIN_CHUNK_SIZE}")
    return size


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Counters of one model or script.

    duration_us: sum over successful runs.   samples: rows of the first output, -1 for a
    script. calls: finished runs.   errors: failed ones among them.   more: items that AI.INFO FULL adds, in order.
    """

    key: bytes
    kind: Kind
    backend: str
    device: str
    tag: bytes
    duration_us: int
    samples: int
    calls: int
    errors: int
    more: Mapping[bytes, Any]


def info_reply(info: RunInfo, full: bool = False) -> Reply:
    """AI.INFO: 18 items; AI.INFO FULL appends our own."""
    reply: list[Any] = [
        *(b"key", info.key),
        *(b"type", info.kind.value),
        *(b"backend", text_name(info.backend)),
        *(b"device", text_name(info.device)),
        *(b"tag", info.tag),
        *(b"duration", info.duration_us),
        *(b"samples", info.samples),
        *(b"calls", info.calls),
        *(b"errors", info.errors),
    ]
    if full:
        for name, value in info.more.items():
            reply += (name, value)
    return reply


ROWS = (
    CommandSpec(
        name=b"AI.INFO",
        request=(Info,),
        parse=parse_info,
        arity=-2,
        flags=READ,
        in_multi="takes part",
        arguments=(
            KEY,
            Argument("option", "oneof", optional=True, arguments=(flag("RESETSTAT"), flag("FULL"))),
        ),
        summary="Reports or resets the run statistics of a model or script.",
        since="1.0.0",
        group="admin",
        complexity="O(1)",
        examples=(
            (
                "AI.INFO net",
                (
                    '["key", "net", "type", "MODEL", "backend", "ONNX", "device", "CPU", "tag", "v7", '
                    '"duration", :5310, "samples", :16, "calls", :9, "errors", :1]'
                ),
            ),
            ("AI.INFO net RESETSTAT", "+OK"),
            ("AI.INFO sometensor", "-ERR cannot find run info for key"),
        ),
    ),
    CommandSpec(
        name=b"AI.CONFIG",
        request=(
            ConfigGet,
            ConfigSet,
            LoadBackend,
        ),
        parse=parse_config,
        arity=-2,
        flags=DELETE,
        first_key=0,
        keys=no_keys,
        in_multi="takes part",
        arguments=(
            Argument(
                "subcommand",
                "oneof",
                arguments=(
                    Argument("name", "string", "GET"),
                    Argument(
                        "loadbackend",
                        "block",
                        "LOADBACKEND",
                        arguments=(Argument("backend", "string"), Argument("path", "string")),
                    ),
                    Argument("path", "string", "BACKENDSPATH"),
                    Argument("bytes", "integer", "MODEL_CHUNK_SIZE"),
                ),
            ),
        ),
        summary="Reads and changes settings, loads a backend.",
        since="1.0.0",
        group="admin",
        complexity="O(1)",
        examples=(
            ("AI.CONFIG GET MODEL_CHUNK_SIZE", ":535822336"),
            ("AI.CONFIG MODEL_CHUNK_SIZE 0", "-ERR MODEL_CHUNK_SIZE: invalid chunk size"),
            ("AI.CONFIG SET MODEL_CHUNK_SIZE 5", "-ERR unsupported subcommand"),
        ),
    ),
)
