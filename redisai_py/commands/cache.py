"""AI.CACHE: requests, parsers, replies and rows; and the option CACHE of AI.MODELEXECUTE.

RedisAI has no prediction cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redisai_py.commands._args import Args, Argv, is_word, show_word, strict_integer, to_bytes
from redisai_py.commands.arguments import KEY, TENSOR, Argument, counted, flag, option
from redisai_py.commands.spec import INVALID_KEYS, WRITE, CommandSpec, counted_scopes
from redisai_py.errors import CommandError, WrongArity
from redisai_py.predictions.rule import DEFAULT_JITTER, DEFAULT_MINRUN_US, LONGEST_TTL_S, MOST_WARMED, Rule
from redisai_py.resp.replies import Reply

__all__ = ["ROWS", "CacheDel", "CacheGet", "CachePurge", "CacheSet", "CacheStats", "CacheWarm", "rule_reply"]

_UNKNOWN = "ERR unknown subcommand '{}' of AI.CACHE; it is one of SET, GET, DEL, PURGE, STATS, WARM"
_MOST_WARM_KEYS = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheSet:
    """Set or replace a model's cache rule."""

    key: bytes
    rule: Rule


@dataclass(frozen=True, slots=True)
class CacheGet:
    """Read a model's rule."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CacheDel:
    """Remove a model's rule. Its entries expire."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CachePurge:
    """Delete the predictions of the model that the key holds now."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Report this server's counters and measurements."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CacheWarm:
    """Compute and store predictions. groups: lists of keys of input tensors, in the order of the command; each has the
    inputs of one run, or of several runs one after the other.
    """

    key: bytes
    groups: tuple[tuple[bytes, ...], ...]


def parse_cache(argv: Argv) -> Any:
    """`AI.CACHE SET | GET | DEL | PURGE | STATS | WARM`. Raises: WrongArity, CommandError."""
    if len(argv) < 2:
        raise WrongArity(bytes(argv[0]))
    name = bytes(argv[1][:16]).upper()
    parse = _SUBCOMMANDS.get(name)
    if parse is None:
        raise CommandError(_UNKNOWN.format(show_word(argv[1])))
    if len(argv) < 3:
        raise WrongArity(b"AI.CACHE|" + bytes(argv[1]))
    return parse(argv)


def _only_key(kind: Callable[[bytes], Any]) -> Callable[[Argv], Any]:
    def parse(argv: Argv) -> Any:
        if len(argv) != 3:
            raise WrongArity(b"AI.CACHE|" + bytes(argv[1]))
        return kind(to_bytes(argv[2]))

    return parse


def _parse_set(argv: Argv) -> CacheSet:
    args = Args(argv, 3)
    options: dict[str, Any] = {}
    while args.left:
        word = args.take_word()
        name = bytes(word[:16]).upper().decode("latin-1")
        if name not in _OPTIONS:
            raise CommandError(f"ERR Invalid argument of AI.CACHE SET: {show_word(word)}")
        field, convert = _OPTIONS[name]
        if field in options:
            raise CommandError(f"ERR {name} is given twice in AI.CACHE SET")
        options[field] = convert(name, args)
    if "ttl_s" not in options:
        raise CommandError("ERR AI.CACHE SET needs TTL seconds: no prediction is kept for ever")
    return CacheSet(to_bytes(argv[2]), Rule(**options))


def _number(least: int, most: int) -> Callable[[str, Args], int]:
    def take(name: str, args: Args) -> int:
        word = args.take_word() if args.left else None
        value = strict_integer(word) if word is not None else None
        if value is None or not least <= value <= most:
            raise CommandError(f"ERR {name} of AI.CACHE SET must be an integer from {least} to {most}{_but(word)}")
        return value

    return take


def _scope(name: str, args: Args) -> bool:
    word = args.take_word() if args.left else None
    if word is not None and is_word(word, b"USER"):
        return True
    if word is None or not is_word(word, b"DB"):
        raise CommandError(f"ERR SCOPE of AI.CACHE SET must be DB or USER{_but(word)}")
    return False


def _but(word: Any) -> str:
    """What was given instead."""
    return "; nothing follows it" if word is None else f", not {show_word(word)}"


_INT64_MAX = 2**63 - 1
_OPTIONS: dict[str, tuple[str, Callable[[str, Args], Any]]] = {
    "TTL": ("ttl_s", _number(1, LONGEST_TTL_S)),
    "JITTER": ("jitter", _number(0, 100)),
    "ROWS": ("rows", lambda name, args: True),
    "MAXBYTES": ("maxbytes", _number(0, _INT64_MAX)),
    "WARM": ("warm", _number(0, MOST_WARMED)),
    "SCOPE": ("per_user", _scope),
    "MINRUN": ("minrun_us", _number(0, _INT64_MAX)),
}
"""Word -> field of the rule, and the parser of its value."""


def _parse_warm(argv: Argv) -> CacheWarm:
    args = Args(argv, 3)
    groups: list[tuple[bytes, ...]] = []
    while args.left:
        if not args.accept(b"INPUTS"):
            raise CommandError(f"ERR Invalid argument of AI.CACHE WARM: {show_word(args.take_word())}")
        word = args.take_word() if args.left else None
        count = strict_integer(word) if word is not None else None
        if count is None or not 0 < count <= min(args.left, _MOST_WARM_KEYS):
            raise CommandError(
                f"ERR INPUTS of AI.CACHE WARM must be followed by the number of keys and as many keys{_but(word)}"
            )
        groups.append(args.take_words(count))
    if not groups:
        raise CommandError("ERR INPUTS not specified")
    return CacheWarm(to_bytes(argv[2]), tuple(groups))


_SUBCOMMANDS: dict[bytes, Callable[[Argv], Any]] = {
    b"SET": _parse_set,
    b"GET": _only_key(CacheGet),
    b"DEL": _only_key(CacheDel),
    b"PURGE": _only_key(CachePurge),
    b"STATS": _only_key(CacheStats),
    b"WARM": _parse_warm,
}


def rule_reply(rule: Rule | None) -> Reply:
    """AI.CACHE GET: fields and values, null without a rule."""
    if rule is None:
        return None
    return [
        *(b"ttl", rule.ttl_s),
        *(b"jitter", rule.jitter),
        *(b"rows", int(rule.rows)),
        *(b"maxbytes", rule.maxbytes),
        *(b"warm", rule.warm),
        *(b"scope", b"USER" if rule.per_user else b"DB"),
        *(b"minrun", rule.minrun_us),
    ]


def _keys(argv: Argv) -> list[bytes]:
    """The model, and the input tensors of WARM."""
    if len(argv) < 3:
        raise CommandError(INVALID_KEYS)
    keys = [to_bytes(argv[2])]
    if is_word(argv[1], b"WARM"):
        keys += counted_scopes(argv, 3, (b"INPUTS",))
    return keys


def _block(name: str, *arguments: Argument) -> Argument:
    return Argument(name.lower(), "block", name, arguments=(KEY, *arguments))


_SCOPE = Argument("scope", "oneof", "SCOPE", optional=True, arguments=(flag("DB"), flag("USER")))
_INPUTS = counted("INPUTS", "input_count", TENSOR, optional=False)

ROWS = (
    CommandSpec(
        name=b"AI.CACHE",
        request=(CacheSet, CacheGet, CacheDel, CachePurge, CacheStats, CacheWarm),
        parse=parse_cache,
        arity=-2,
        flags=(*WRITE, "movablekeys"),
        first_key=2,
        keys=_keys,
        in_multi="refused",
        arguments=(
            Argument(
                "subcommand",
                "oneof",
                arguments=(
                    _block(
                        "SET",
                        Argument("seconds", "integer", "TTL"),
                        option("JITTER", "percent"),
                        flag("ROWS", optional=True),
                        option("MAXBYTES", "bytes"),
                        option("WARM", "count"),
                        _SCOPE,
                        option("MINRUN", "microseconds"),
                    ),
                    _block("GET"),
                    _block("DEL"),
                    _block("PURGE"),
                    _block("STATS"),
                    _block(
                        "WARM",
                        Argument(
                            _INPUTS.name,
                            "block",
                            "INPUTS",
                            multiple=True,
                            multiple_token=True,
                            arguments=_INPUTS.arguments,
                        ),
                    ),
                ),
            ),
        ),
        summary="Keeps the predictions of a model, and reports and deletes them.",
        since="0.1.0",
        origin="redisai_py",
        group="cache",
        complexity="O(1); PURGE O(keys of the database), in steps; WARM depends on the model",
        examples=(
            ("AI.CACHE SET ranker TTL 3600", "+OK"),
            ("AI.CACHE SET ranker TTL 600 JITTER 20 ROWS MAXBYTES 100000000 WARM 50 SCOPE USER MINRUN 500", "+OK"),
            (
                "AI.CACHE GET ranker",
                (
                    f'["ttl", :3600, "jitter", :{DEFAULT_JITTER}, "rows", :0, "maxbytes", :0, "warm", :0, '
                    f'"scope", "DB", "minrun", :{DEFAULT_MINRUN_US}]'
                ),
            ),
            ("AI.CACHE WARM ranker INPUTS 2 user:1 user:2", '["inserted", :2, "present", :0, "failed", :0]'),
            ("AI.CACHE PURGE ranker", ":2"),
            ("AI.CACHE DEL ranker", ":1"),
            ("AI.CACHE SET ranker", "-ERR AI.CACHE SET needs TTL seconds: no prediction is kept for ever"),
        ),
    ),
)
