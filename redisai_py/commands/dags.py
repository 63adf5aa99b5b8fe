"""AI.DAG*: a prelude, then operations separated by `|>`: request, parser, keys and rows.

The parsers of the commands also parse the operations. An error carries every look-up that RedisAI makes before it:
LOAD keys at the position of LOAD, then models and scripts in textual order. The last check needs no keyspace: every
name that an operation reads was loaded or produced before. `EX seconds`, `KEEPTTL` and `IFUNCHANGED` are our own.
Source: AI.DAG* commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from redisai_py.commands import model_runs, script_runs, tensors
from redisai_py.commands._args import Args, Argv, is_word, show_word, strict_integer, to_bytes
from redisai_py.commands.arguments import KEY, TIMEOUT, Argument, counted, flag, option
from redisai_py.commands.checks import TensorExists
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.spec import INVALID_KEYS, READ_RUN, RUN, CommandSpec
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, CommandError
from redisai_py.tensor import Buffer

__all__ = [
    "ROWS",
    "SEPARATOR",
    "Dag",
    "Operation",
]

SEPARATOR = b"|>"

Operation = TensorSet | TensorGet | ModelExecute | ScriptExecute

_NOTHING_TO_ROUTE_BY = (
    "ERR AI.DAGEXECUTE and AI.DAGEXECUTE_RO commands must contain at least one out of ROUTING, LOAD, PERSIST keywords"
)
_TOO_FEW_KEYS = {
    "LOAD": "ERR number of keys to LOAD into DAG does not match the number of given arguments",
    "PERSIST": "ERR number of keys to PERSIST after DAG execution does not match the number of given arguments",
}
_UNSUPPORTED = "Unsupported command within DAG"
_LONGEST_NAME = 32
_LONGEST_EX = 10**15
"""Seconds. Redis counts 63 bits of milliseconds since 1970, and would refuse more only after the DAG has run."""


@dataclass(frozen=True, slots=True)
class Dag:
    """Operations on local names. `load` and `persist` are the keys read from and written to Redis.

    routing: a key-like tag that selects the shard.   timeout_ms: limit of queueing, None without one.
    ex_seconds, keepttl: expiry of the PERSIST keys.
    ifunchanged: commit only if the LOAD keys are unchanged since they were read.
    """

    ops: tuple[Operation, ...]
    load: tuple[bytes, ...] = ()
    persist: tuple[bytes, ...] = ()
    routing: bytes | None = None
    timeout_ms: int | None = None
    ex_seconds: int | None = None
    keepttl: bool = False
    ifunchanged: bool = False


def _parse_dag(argv: Argv, readonly: bool, deprecated: bool) -> Dag:
    suffix = "_RO" if readonly else ""
    if deprecated and len(argv) < 4:
        raise CommandError(f"ERR wrong number of arguments for 'AI.DAGRUN{suffix}' command")
    if not deprecated and len(argv) < 6:
        raise CommandError(f"ERR missing arguments for 'AI.DAGEXECUTE{suffix}' command")
    args = Args(argv, 1)
    given = _parse_prelude(args, readonly)
    if not deprecated and not given.keys() & {"load", "persist", "routing"}:
        raise args.error(_NOTHING_TO_ROUTE_BY)
    dag = Dag(_parse_operations(args, readonly, deprecated), **given)
    _resolve_names(args, dag)
    return dag


def _parse_prelude(args: Args, readonly: bool) -> dict[str, Any]:
    """The words before the first `|>`, or all: each keyword at most once, in any order. Returns: fields of Dag."""
    given: dict[str, Any] = {}
    while args.left:
        word = args.take_word()
        if word == SEPARATOR and args.left:
            args.pos -= 1
            break
        name = bytes(word).upper().decode("latin-1") if len(word) <= _LONGEST_NAME else ""
        field, take = _PRELUDE_WORDS.get(name, ("", None))
        if take is None or field in given:
            raise args.error(f"ERR Invalid DAG command. Unexpected argument:  {show_word(word)}")
        if readonly and name == "PERSIST":
            raise args.error("ERR PERSIST cannot be specified in a read-only DAG")
        given[field] = take(args)
    if {"ex_seconds", "keepttl"} <= given.keys():
        raise args.error("ERR EX and KEEPTTL cannot be used together in DAG command")
    if given.keys() & {"ex_seconds", "keepttl"} and "persist" not in given:
        raise args.error("ERR EX and KEEPTTL need PERSIST in DAG command")
    if "ifunchanged" in given and not {"load", "persist"} <= given.keys():
        raise args.error("ERR IFUNCHANGED needs LOAD and PERSIST in DAG command")
    return given


def _load(args: Args) -> tuple[bytes, ...]:
    """`LOAD n key...`; keys are looked up when read, before their number is checked against the words left."""
    count = _count(args, "LOAD")
    keys = args.take_words(count)
    args.checks += map(TensorExists, keys)
    if len(keys) < count:
        raise args.error(_TOO_FEW_KEYS["LOAD"])
    return keys


def _persist(args: Args) -> tuple[bytes, ...]:
    """`PERSIST n key...`, all different."""
    count = _count(args, "PERSIST")
    keys = args.take_words(count)
    if len(set(keys)) < len(keys):
        raise args.error("ERR PERSIST keys must be unique")
    if len(keys) < count:
        raise args.error(_TOO_FEW_KEYS["PERSIST"])
    return keys


def _count(args: Args, keyword: str) -> int:
    if args.left < 2:
        raise args.error(f"ERR missing arguments after {keyword} keyword in DAG command")
    count = strict_integer(args.take_word())
    if count is None or count <= 0:
        raise args.error(f"ERR invalid or negative value found in number of keys to {keyword}")
    return count


def _routing(args: Args) -> bytes:
    """`ROUTING tag`."""
    if not args.left:
        raise args.error("ERR Missing ROUTING value")
    return to_bytes(args.take_word())


def _timeout(args: Args) -> int | None:
    """`TIMEOUT ms`. Only here, 0 and negative values are accepted; they mean no timeout."""
    if not args.left:
        raise args.error(NO_TIMEOUT_VALUE)
    value = strict_integer(args.take_word())
    if value is None:
        raise args.error(INVALID_TIMEOUT)
    return value if value > 0 else None


def _expiry(args: Args) -> int:
    """`EX seconds`: expiry of the PERSIST keys."""
    value = strict_integer(args.take_word()) if args.left else None
    if value is None or not 0 < value <= _LONGEST_EX:
        raise args.error("ERR invalid expire time in DAG command")
    return value


_PRELUDE_WORDS: dict[str, tuple[str, Callable[[Args], Any]]] = {
    "LOAD": ("load", _load),
    "PERSIST": ("persist", _persist),
    "ROUTING": ("routing", _routing),
    "TIMEOUT": ("timeout_ms", _timeout),
    "EX": ("ex_seconds", _expiry),
    "KEEPTTL": ("keepttl", lambda args: True),
    "IFUNCHANGED": ("ifunchanged", lambda args: True),
}
"""Keyword -> field of Dag, and the parser of its value."""


def _parse_operations(args: Args, readonly: bool, deprecated: bool) -> tuple[Operation, ...]:
    if not args.left:
        raise args.error("ERR DAG is empty")
    argv = list(args.argv)
    ops: list[Operation] = []
    start = args.pos + 1
    while start <= args.end:
        try:
            end = argv.index(SEPARATOR, start)
        except ValueError:
            end = args.end
        ops.append(_parse_operation(args, argv[start:end], readonly, deprecated))
        start = end + 1
    return tuple(ops)


def _parse_operation(args: Args, argv: list[Buffer], readonly: bool, deprecated: bool) -> Operation:
    """Parse one operation; its look-ups are added to those of `args`."""
    name = bytes(argv[0]).upper() if argv and len(argv[0]) <= _LONGEST_NAME else b""
    refusal = _REFUSED.get((name, deprecated))
    if refusal is not None:
        raise args.error(refusal)
    if name == b"AI.SCRIPTEXECUTE" and readonly:
        raise args.error("ERR AI.SCRIPTEXECUTE command cannot be specified in a read-only DAG")
    parse = _OPERATIONS.get(name)
    if parse is None:
        raise args.error(_UNSUPPORTED)
    try:
        operation: Operation = parse(argv, True)
    except CommandError as error:
        error.checks = (*args.checks, *error.checks)
        raise
    if isinstance(operation, (ModelExecute, ScriptExecute)):
        args.checks += operation.local_checks
    return operation


_OPERATIONS = {row.name: row.parse for row in (*tensors.ROWS, *model_runs.ROWS, *script_runs.ROWS) if row.in_dag}
_REFUSED = {
    (b"AI.MODELRUN", False): "Deprecated AI.MODELRUN cannot be used in AI.DAGEXECUTE command",
    (b"AI.SCRIPTRUN", False): "Deprecated AI.SCRIPTRUN cannot be used in AI.DAGEXECUTE command",
    (b"AI.MODELEXECUTE", True): "AI.MODELEXECUTE cannot be used in a deprecated AI.DAGRUN command",
    (b"AI.SCRIPTEXECUTE", True): "AI.SCRIPTEXECUTE cannot be used in a deprecated AI.DAGRUN command",
}


def _resolve_names(args: Args, dag: Dag) -> None:
    known = set(dag.load)
    for operation in dag.ops:
        if not known.issuperset(operation.reads):
            raise args.error("ERR INPUT key cannot be found in DAG")
        known.update(operation.writes)
    if not known.issuperset(dag.persist):
        raise args.error("ERR PERSIST key cannot be found in DAG")


def _dag_keys(argv: Argv) -> list[bytes]:
    """AI.DAG*: LOAD keys, PERSIST keys, the ROUTING value, and the model or script of every *EXECUTE operation.

    RedisAI also mistakes words of data for operations; this reads only words after a separator.

    Raises: CommandError if there is none of these.
    """
    words = list(argv)
    prelude_end = words.index(SEPARATOR) if SEPARATOR in words else len(words)
    keys = [*_prelude_keys(words, prelude_end), *_operation_keys(words, prelude_end)]
    if not keys:
        raise CommandError(INVALID_KEYS)
    return keys


def _prelude_keys(words: Argv, end: int) -> Iterator[bytes]:
    at = 1
    while at + 1 < end:
        word = words[at]
        if any(is_word(word, scope) for scope in (b"LOAD", b"PERSIST")):
            count = strict_integer(words[at + 1])
            if count is None or count < 0:
                return
            yield from map(to_bytes, words[at + 2 : min(at + 2 + count, end)])
            at += 2 + count
        elif is_word(word, b"ROUTING"):
            yield to_bytes(words[at + 1])
            at += 2
        else:
            at += 2 if any(is_word(word, name) for name in (b"TIMEOUT", b"EX")) else 1


def _operation_keys(words: Argv, start: int) -> Iterator[bytes]:
    for at in range(start, len(words) - 2):
        name = words[at + 1]
        is_run = is_word(name, b"AI.MODELEXECUTE") or is_word(name, b"AI.SCRIPTEXECUTE")
        if is_run and words[at] == SEPARATOR:
            yield to_bytes(words[at + 2])


_OPERATION = Argument("operation", "string", "|>", multiple=True, multiple_token=True)
_ROUTING = option("ROUTING", "tag", integer=False)
_LOAD = counted("LOAD", "key_count", KEY)

_EXECUTE = CommandSpec(
    name=b"AI.DAGEXECUTE",
    request=(Dag,),
    parse=partial(_parse_dag, readonly=False, deprecated=False),
    arity=-6,
    flags=RUN,
    first_key=3,
    keys=_dag_keys,
    in_multi="refused",
    arguments=(
        _LOAD,
        counted("PERSIST", "key_count", KEY),
        _ROUTING,
        TIMEOUT,
        Argument("expiry", "oneof", optional=True, arguments=(Argument("seconds", "integer", "EX"), flag("KEEPTTL"))),
        flag("IFUNCHANGED", optional=True),
        _OPERATION,
    ),
    summary="Runs operations on tensors with local names, all or nothing.",
    since="1.2.3",
    group="dags",
    complexity="Depends on the operations",
    examples=(
        (
            (
                "AI.DAGEXECUTE LOAD 1 a PERSIST 1 r |> AI.TENSORSET b FLOAT 2 1 VALUES 3 4 |> "
                "AI.MODELEXECUTE add2 INPUTS 2 a b OUTPUTS 1 r |> AI.TENSORGET r VALUES"
            ),
            '[+OK, +OK, ["4", "6"]]',
        ),
        (
            ("AI.DAGEXECUTE LOAD 1 a PERSIST 1 a EX 60 IFUNCHANGED |> AI.MODELEXECUTE step INPUTS 1 a OUTPUTS 1 a"),
            "[+OK]",
        ),
    ),
)
_EXECUTE_RO = replace(
    _EXECUTE,
    name=b"AI.DAGEXECUTE_RO",
    parse=partial(_parse_dag, readonly=True, deprecated=False),
    flags=READ_RUN,
    arguments=(_LOAD, _ROUTING, TIMEOUT, _OPERATION),
    summary="Runs operations on tensors with local names; writes nothing.",
    examples=(
        (
            ("AI.DAGEXECUTE_RO LOAD 1 a |> AI.MODELEXECUTE add2 INPUTS 2 a a OUTPUTS 1 q |> AI.TENSORGET q VALUES"),
            '[+OK, ["2", "4"]]',
        ),
    ),
)
ROWS = (
    _EXECUTE,
    _EXECUTE_RO,
    replace(
        _EXECUTE,
        name=b"AI.DAGRUN",
        parse=partial(_parse_dag, readonly=False, deprecated=True),
        arity=-4,
        since="1.0.0",
        replaced_by="AI.DAGEXECUTE",
        examples=(("AI.DAGRUN |> AI.TENSORSET x FLOAT 1 VALUES 3 |> AI.TENSORGET x VALUES", '[+OK, ["3"]]'),),
    ),
    replace(
        _EXECUTE_RO,
        name=b"AI.DAGRUN_RO",
        parse=partial(_parse_dag, readonly=True, deprecated=True),
        arity=-4,
        since="1.0.0",
        replaced_by="AI.DAGEXECUTE_RO",
        examples=(
            (
                "AI.DAGRUN_RO LOAD 1 a |> AI.SCRIPTRUN s f INPUTS a OUTPUTS q |> AI.TENSORGET q VALUES",
                '[+OK, ["1", "2"]]',
            ),
        ),
    ),
)
