"""Redis's information about itself, with ours added: INFO, COMMAND and its subcommands, MODULE LIST.

Clients detect RedisAI by these, and redis-cli takes completions and hints from COMMAND DOCS. Redis's own bytes are
kept; only counts are changed, and elements added.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from redisai_py.commands import COMMANDS
from redisai_py.commands.arguments import Argument
from redisai_py.commands.spec import CommandSpec
from redisai_py.errors import CommandError
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.session import Session
from redisai_py.ops.info import MODULE_NAME, MODULE_VERSION, info_sections
from redisai_py.resp.reader import split_replies
from redisai_py.resp.replies import SetOf, Simple, encode_reply

__all__ = ["ask_and_pass_on", "command", "info", "module"]

_MODULE_LINE = (
    f"module:name={MODULE_NAME},ver={MODULE_VERSION},api=1,filters=0,usedby=[],using=[],options=[handle-io-errors]\r\n"
).encode()
_VERBATIM = b"txt:"
"""Prefix of a verbatim string in RESP3: it says how to show the text, and is not part of it."""


async def ask_and_pass_on(session: Session, argv: list[bytes]) -> object:
    """A command that changes nothing of ours, but runs alone."""
    return session.pass_on(await session.ask(argv))


async def info(session: Session, argv: list[bytes]) -> object:
    """INFO: adds a line for module `ai`, and the requested `ai_*` sections."""
    raw = await session.ask(argv)
    if raw[:1] not in (b"$", b"="):
        return session.pass_on(raw)
    start = raw.find(b"\r\n") + 2
    if raw[:1] == b"=":
        start += len(_VERBATIM)
    body = raw[start:-2]
    body = body.replace(b"# Modules\r\n", b"# Modules\r\n" + _MODULE_LINE, 1)
    wanted = {word.decode("utf-8", "replace").lower() for word in argv[1:]}
    if wanted & {"modules", "everything"} and b"# Modules" not in body:
        body += (b"\r\n" if body else b"") + b"# Modules\r\n" + _MODULE_LINE
    sections = await info_sections(session.turn.services, wanted)
    if sections:
        body += (b"\r\n" if body else b"") + sections.encode()
    if raw[:1] == b"=":
        body = _VERBATIM + body
    session.turn.write((b"%b%d\r\n" % (raw[:1], len(body)), body, b"\r\n"))
    return NO_REPLY


async def module(session: Session, argv: list[bytes]) -> object:
    """MODULE LIST: adds the module `ai`. Redis handles the other subcommands."""
    raw = await session.ask(argv)
    if len(argv) == 2 and argv[1].upper() == b"LIST" and raw[:1] == b"*":
        row = {b"name": MODULE_NAME.encode(), b"ver": MODULE_VERSION, b"path": b"", b"args": []}
        return _append(session, raw, [_as_map(row, session)])
    return session.pass_on(raw)


async def command(session: Session, argv: list[bytes]) -> object:
    """COMMAND and its subcommands, with the AI commands added."""
    action = argv[1].upper() if len(argv) > 1 else b""
    if action in (b"GETKEYS", b"GETKEYSANDFLAGS") and len(argv) > 2 and argv[2].upper() in COMMANDS:
        keys = _get_keys(COMMANDS[argv[2].upper()], argv[2:])
        return keys if action == b"GETKEYS" else [[key, _flags("RW", "access", "update")] for key in keys]
    return await _SUBCOMMANDS.get(action, ask_and_pass_on)(session, argv)


def _get_keys(spec: CommandSpec, argv: list[bytes]) -> list[bytes]:
    keys = spec.keys(argv)
    if not keys:
        raise CommandError("ERR The command has no key arguments")
    return keys


async def _all(session: Session, argv: list[bytes]) -> object:
    return _append(session, await session.ask(argv), [_entry(spec) for spec in COMMANDS.values()])


async def _count(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    return session.pass_on(b":%d\r\n" % (int(raw[1:-2]) + len(COMMANDS)) if raw[:1] == b":" else raw)


async def _list(session: Session, argv: list[bytes]) -> object:
    raw = await session.ask(argv)
    names = [name.decode().lower() for name in COMMANDS]
    if len(argv) == 5 and argv[2].upper() == b"FILTERBY":
        kind, value = argv[3].upper(), argv[4].decode("utf-8", "replace")
        if kind == b"PATTERN":
            names = fnmatch.filter(names, value.lower())
        else:
            names = names if (kind, value.lower()) == (b"MODULE", MODULE_NAME) else []
    return _append(session, raw, [name.encode() for name in names])


async def _details(session: Session, argv: list[bytes]) -> object:
    """COMMAND INFO [name ...]: Redis answers nil for unknown names; ours are filled in."""
    if len(argv) == 2:
        return await _all(session, argv)
    raw = await session.ask(argv)
    rows = _elements(raw)
    if rows is None:
        return session.pass_on(raw)
    segments: list[Any] = [b"*%d\r\n" % len(rows)]
    for name, row in zip(argv[2:], rows, strict=True):
        spec = COMMANDS.get(name.upper())
        segments += [row] if spec is None else encode_reply(_entry(spec), session.protocol)
    session.turn.write(segments)
    return NO_REPLY


async def _docs(session: Session, argv: list[bytes]) -> object:
    """COMMAND DOCS [name ...]: a map from name to documentation."""
    raw = await session.ask(argv)
    wanted = [name.upper() for name in argv[2:]] or list(COMMANDS)
    pairs: list[Any] = []
    for name in wanted:
        if name in COMMANDS:
            pairs += [name.decode().lower().encode(), _documentation(COMMANDS[name], session)]
    return _append(session, raw, pairs)


_SUBCOMMANDS: dict[bytes, Callable[[Session, list[bytes]], Any]] = {
    b"": _all,
    b"COUNT": _count,
    b"LIST": _list,
    b"INFO": _details,
    b"DOCS": _docs,
}


def _elements(raw: bytes) -> list[bytes] | None:
    line = raw.find(b"\r\n")
    return split_replies(raw, line + 2, int(raw[1:line])) if raw[:1] == b"*" else None


def _append(session: Session, raw: bytes, values: list[Any]) -> object:
    """Write Redis's array, or map of pairs, with additional elements at its end; an error unchanged."""
    kind = raw[:1]
    if kind not in (b"*", b"%", b"~"):
        return session.pass_on(raw)
    line = raw.find(b"\r\n")
    added = len(values) // 2 if kind == b"%" else len(values)
    segments: list[Any] = [b"%b%d\r\n" % (kind, int(raw[1:line]) + added), raw[line + 2 :]]
    for value in values:
        segments += encode_reply(value, session.protocol)
    session.turn.write(segments)
    return NO_REPLY


def _as_map(fields: dict[bytes, Any], session: Session) -> Any:
    """A map for RESP3; for RESP2 an array of its pairs."""
    if session.protocol == 3:
        return fields
    return [item for field in fields.items() for item in field]


def _entry(spec: CommandSpec) -> list[Any]:
    name = spec.name.decode().lower().encode()
    flags = _flags(*spec.flags)
    # No ACL categories: like RedisAI's, these commands are granted by name. No tips, key specs or subcommands either.
    return [name, -1, flags, spec.first_key, spec.last_key, spec.step, [], [], [], []]


def _documentation(spec: CommandSpec, session: Session) -> Any:
    fields: dict[bytes, Any] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": b"module",
        b"complexity": spec.complexity.encode(),
        b"module": MODULE_NAME.encode(),
    }
    if spec.replaced_by:
        fields |= {b"doc_flags": _flags("deprecated"), b"replaced_by": spec.replaced_by.encode()}
    if spec.arguments:
        fields[b"arguments"] = [_argument(argument, session) for argument in spec.arguments]
    return _as_map(fields, session)


def _argument(argument: Argument, session: Session) -> Any:
    fields: dict[bytes, Any] = {b"name": argument.name.encode(), b"type": argument.type.encode()}
    if argument.type not in ("oneof", "block"):
        fields[b"display_text"] = argument.name.encode()
    if argument.type == "key":
        fields[b"key_spec_index"] = 0
    if argument.token:
        fields[b"token"] = argument.token.encode()
    flags = [name for name in ("optional", "multiple", "multiple_token") if getattr(argument, name)]
    if flags:
        fields[b"flags"] = _flags(*flags)
    if argument.arguments:
        fields[b"arguments"] = [_argument(part, session) for part in argument.arguments]
    return _as_map(fields, session)


def _flags(*names: str) -> SetOf:
    # Simple strings, as from Redis: redis-cli aborts on anything else.
    return SetOf(Simple(name.encode()) for name in names)
