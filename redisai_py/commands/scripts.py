"""AI.SCRIPTSTORE, AI.SCRIPTSET, AI.SCRIPTGET, AI.SCRIPTDEL, AI._SCRIPTSCAN: requests, parsers, replies and rows.

AI.SCRIPTSET parses to the request of AI.SCRIPTSTORE. Function names are text. Source: AI.SCRIPT* commands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from redisai_py.commands._args import Args, Argv, lenient_integer, name_text, text_name, to_bytes
from redisai_py.commands.arguments import DEVICE, KEY, NAME, TAG, Argument, counted, flag
from redisai_py.commands.spec import DELETE, READ, WRITE, CommandSpec, key_alone, key_and_parts, no_keys, nothing
from redisai_py.errors import CommandError, WrongArity
from redisai_py.model import Script
from redisai_py.resp.replies import Reply
from redisai_py.tensor import Buffer, Device

__all__ = [
    "ROWS",
    "ScriptDel",
    "ScriptGet",
    "ScriptScan",
    "ScriptStore",
    "c_string",
    "script_reply",
]

_UNSUPPORTED_DEVICE = "ERR unsupported device"
_MISSING_ENTRY_POINTS = "ERR Insufficient arguments, missing script entry points"
_MISSING_SOURCE = "ERR Insufficient arguments, missing script SOURCE"


@dataclass(frozen=True, slots=True)
class ScriptStore:
    """Compile a script and store it. entry_points: none for AI.SCRIPTSET."""

    key: bytes
    device: Device
    entry_points: tuple[str, ...]
    source: str
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class ScriptGet:
    """Read a script's description (meta), its text (source), or both."""

    key: bytes
    meta: bool
    source: bool


@dataclass(frozen=True, slots=True)
class ScriptDel:
    """Delete a script."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ScriptScan:
    """List the keys and tags of all scripts."""


def parse_script_store(argv: Argv) -> ScriptStore:
    """`AI.SCRIPTSTORE key device [TAG tag] ENTRY_POINTS n name... SOURCE text`; words after the text are ignored.

    Raises: WrongArity, CommandError.
    """
    if len(argv) < 8:
        raise WrongArity(bytes(argv[0]))
    args = Args(argv, 3)
    tag = to_bytes(args.take_word()) if args.accept(b"TAG") else b""
    if not args.accept(b"ENTRY_POINTS"):
        raise CommandError(_MISSING_ENTRY_POINTS)
    count = lenient_integer(args.take_word()) if args.left else None
    if count is None:
        raise CommandError("ERR Non numeric entry points number provided to AI.SCRIPTSTORE command")
    if not 0 <= count <= args.left:
        raise CommandError(_MISSING_ENTRY_POINTS)
    entry_points = tuple(c_string(name) for name in args.take_words(count))
    source = _source(args)
    return ScriptStore(to_bytes(argv[1]), _device(argv[2]), entry_points, source, tag)


def parse_script_set(argv: Argv) -> ScriptStore:
    """`AI.SCRIPTSET key device [TAG tag] SOURCE text`. Raises: WrongArity, CommandError."""
    if len(argv) not in (5, 7):
        raise WrongArity(bytes(argv[0]))
    args = Args(argv, 3)
    tag = to_bytes(args.take_word()) if args.accept(b"TAG") else b""
    source = _source(args)
    return ScriptStore(to_bytes(argv[1]), _device(argv[2]), (), source, tag)


def _source(args: Args) -> str:
    if not args.accept(b"SOURCE") or not args.left:
        raise CommandError(_MISSING_SOURCE)
    return c_string(args.take_word())


def c_string(word: Buffer) -> str:
    """A word as text up to its first NUL, as a C program reads it."""
    return name_text(to_bytes(word).partition(b"\0")[0])


def _device(word: Buffer) -> Device:
    return Device.parse_loosely(word, _UNSUPPORTED_DEVICE)


def script_reply(request: ScriptGet, script: Script) -> Reply:
    """AI.SCRIPTGET: 6 items, 8 with the source, or the source alone."""
    source = text_name(script.source)
    if not request.meta:
        return source
    reply: list[Any] = [
        *(b"device", text_name(script.device.text)),
        *(b"tag", script.tag),
        *(b"Entry Points", [text_name(name) for name in script.entry_points]),
    ]
    if request.source:
        reply += (b"source", source)
    return reply


_SOURCE = Argument("text", "string", "SOURCE")

_STORE = CommandSpec(
    name=b"AI.SCRIPTSTORE",
    request=(ScriptStore,),
    parse=parse_script_store,
    arity=-8,
    flags=WRITE,
    in_multi="may fail",
    arguments=(
        KEY,
        DEVICE,
        TAG,
        counted("ENTRY_POINTS", "entry_point_count", NAME, optional=False),
        _SOURCE,
    ),
    summary="Compiles a TorchScript source and stores it.",
    since="1.2.4",
    group="scripts",
    complexity="O(N) where N is the size of the source, plus the time to compile it",
    examples=(
        ("AI.SCRIPTSTORE pre CPU TAG v2 ENTRY_POINTS 2 norm crop SOURCE <text>", "+OK"),
        ("AI.SCRIPTSTORE pre TPU ENTRY_POINTS 1 norm SOURCE <text>", "-ERR unsupported device"),
    ),
)
ROWS = (
    _STORE,
    replace(
        _STORE,
        name=b"AI.SCRIPTSET",
        parse=parse_script_set,
        arity=-5,
        arguments=(KEY, DEVICE, TAG, _SOURCE),
        since="1.0.0",
        replaced_by="AI.SCRIPTSTORE",
        examples=(
            ("AI.SCRIPTSET old CPU SOURCE <text>", "+OK"),
            ("AI.SCRIPTSET old CPU TEXT <text>", "-ERR Insufficient arguments, missing script SOURCE"),
        ),
    ),
    CommandSpec(
        name=b"AI.SCRIPTGET",
        request=(ScriptGet,),
        parse=key_and_parts(ScriptGet, b"SOURCE"),
        arity=-2,
        flags=READ,
        in_multi="takes part",
        arguments=(KEY, flag("META", optional=True), flag("SOURCE", optional=True)),
        summary="Reads a script's description, its source, or both.",
        since="1.0.0",
        group="scripts",
        complexity="O(N) where N is the size of the source",
        examples=(
            ("AI.SCRIPTGET pre META", '["device", "CPU", "tag", "v2", "Entry Points", ["norm", "crop"]]'),
            ("AI.SCRIPTGET absent", "-ERR script key is empty"),
        ),
    ),
    CommandSpec(
        name=b"AI.SCRIPTDEL",
        request=(ScriptDel,),
        parse=key_alone(ScriptDel),
        arity=2,
        flags=DELETE,
        in_multi="takes part",
        arguments=(KEY,),
        summary="Deletes a script.",
        since="1.0.0",
        group="scripts",
        complexity="O(1)",
        examples=(("AI.SCRIPTDEL old", "+OK"),),
    ),
    CommandSpec(
        name=b"AI._SCRIPTSCAN",
        request=(ScriptScan,),
        parse=nothing(ScriptScan),
        arity=1,
        flags=READ,
        first_key=0,
        keys=no_keys,
        in_multi="may fail",
        summary="Lists the keys and tags of all scripts.",
        since="1.0.0",
        group="scripts",
        complexity="O(N) where N is the number of keys in the database, in small steps",
        examples=(("AI._SCRIPTSCAN", '[["pre", "v2"]]'),),
    ),
)
