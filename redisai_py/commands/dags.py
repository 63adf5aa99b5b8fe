"""AI.DAG*: a prelude, then operations divided by `|>`; words to requests.

Operations are parsed by the parsers of their own commands. An error carries every look-up that RedisAI makes before it:
LOAD keys where LOAD stands, then models and scripts in textual order. That every name an operation reads is loaded or
produced before it is checked last, without the keyspace. `EX seconds`, `KEEPTTL` and `IFUNCHANGED` are prelude words of
ours.
Source: AI.DAG* commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from redisai_py.commands._args import Args, Argv, show_word, strict_integer, to_bytes
from redisai_py.commands.checks import Check, TensorExists
from redisai_py.commands.models import ModelExecute, parse_model_execute, parse_model_run
from redisai_py.commands.scripts import ScriptExecute, parse_script_execute, parse_script_run
from redisai_py.commands.tensors import (
    TensorGet,
    TensorSet,
    parse_tensor_get,
    parse_tensor_set,
)
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, CommandError
from redisai_py.tensor import Buffer

__all__ = [
    "SEPARATOR",
    "Dag",
    "Operation",
    "parse_dag_execute",
    "parse_dag_execute_ro",
    "parse_dag_run",
    "parse_dag_run_ro",
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
"""Seconds; Redis counts milliseconds since 1970 in 63 bits, and would refuse more only after the DAG has run."""


@dataclass(frozen=True, slots=True)
class Dag:
    """Operations on local names. `load` and `persist` are the keys that go in and out of Redis.

    routing: a key-like tag that names the shard.   timeout_ms: bound on queueing, None without one.
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


def _local_checks(operation: Operation) -> tuple[Check, ...]:
    return operation.local_checks if isinstance(operation, (ModelExecute, ScriptExecute)) else ()


def parse_dag_execute(argv: Argv) -> Dag:
    """`AI.DAGEXECUTE prelude |> op [|> op ...]`. Raises: CommandError, with the look-ups that precede it."""
    return _parse_dag(argv, readonly=False, deprecated=False)


def parse_dag_execute_ro(argv: Argv) -> Dag:
    """`AI.DAGEXECUTE_RO`: no PERSIST and no scripts. Raises: CommandError, with the look-ups that precede it."""
    return _parse_dag(argv, readonly=True, deprecated=False)


def parse_dag_run(argv: Argv) -> Dag:
    """`AI.DAGRUN`: with AI.MODELRUN and AI.SCRIPTRUN. Raises: CommandError, with the look-ups that precede it."""
    return _parse_dag(argv, readonly=False, deprecated=True)


def parse_dag_run_ro(argv: Argv) -> Dag:
    """`AI.DAGRUN_RO`: no PERSIST. Raises: CommandError, with the look-ups that precede it."""
    return _parse_dag(argv, readonly=True, deprecated=True)


def _parse_dag(argv: Argv, readonly: bool, deprecated: bool) -> Dag:
    suffix = "_RO" if readonly else ""
    if deprecated and len(argv) < 4:
        raise CommandError(f"ERR wrong number of arguments for 'AI.DAGRUN{suffix}' command")
    if not deprecated and len(argv) < 6:
        raise CommandError(f"ERR missing arguments for 'AI.DAGEXECUTE{suffix}' command")
    args = Args(argv, 1)
    prelude = _Prelude(readonly)
    prelude.parse(args)
    if not deprecated and not prelude.seen & {"LOAD", "PERSIST", "ROUTING"}:
        raise args.error(_NOTHING_TO_ROUTE_BY)
    ops = _parse_operations(args, readonly, deprecated)
    _resolve_names(args, prelude, ops)
    return Dag(
        ops,
        prelude.load,
        prelude.persist,
        prelude.routing,
        prelude.timeout_ms,
        prelude.ex_seconds,
        "KEEPTTL" in prelude.seen,
        "IFUNCHANGED" in prelude.seen,
    )


@dataclass(slots=True)
class _Prelude:
    """What stands before the first `|>`: each word at most once, in any order."""

    readonly: bool
    load: tuple[bytes, ...] = ()
    persist: tuple[bytes, ...] = ()
    routing: bytes | None = None
    timeout_ms: int | None = None
    ex_seconds: int | None = None
    seen: set[str] = field(default_factory=set)

    def parse(self, args: Args) -> None:
        """Take the words up to the first `|>`, or all if there is none."""
        while args.left:
            word = args.take_word()
            if word == SEPARATOR and args.left:
                args.pos -= 1
                break
            name = bytes(word).upper().decode("latin-1") if len(word) <= _LONGEST_NAME else ""
            take = _PRELUDE_WORDS.get(name)
            if take is None or name in self.seen:
                raise args.error(f"ERR Invalid DAG command. Unexpected argument:  {show_word(word)}")
            take(self, args)
            self.seen.add(name)
        self._check_own_words(args)

    def take_load(self, args: Args) -> None:
        """`LOAD n key...`; keys are looked up as they are read, before their number is compared with the words left."""
        count = self._count(args, "LOAD")
        self.load = args.take_words(count)
        args.checks += map(TensorExists, self.load)
        if len(self.load) < count:
            raise args.error(_TOO_FEW_KEYS["LOAD"])

    def take_persist(self, args: Args) -> None:
        """`PERSIST n key...`, all different."""
        if self.readonly:
            raise args.error("ERR PERSIST cannot be specified in a read-only DAG")
        count = self._count(args, "PERSIST")
        self.persist = args.take_words(count)
        if len(set(self.persist)) < len(self.persist):
            raise args.error("ERR PERSIST keys must be unique")
        if len(self.persist) < count:
            raise args.error(_TOO_FEW_KEYS["PERSIST"])

    def _count(self, args: Args, keyword: str) -> int:
        if args.left < 2:
            raise args.error(f"ERR missing arguments after {keyword} keyword in DAG command")
        count = strict_integer(args.take_word())
        if count is None or count <= 0:
            raise args.error(f"ERR invalid or negative value found in number of keys to {keyword}")
        return count

    def take_routing(self, args: Args) -> None:
        """`ROUTING tag`."""
        if not args.left:
            raise args.error("ERR Missing ROUTING value")
        self.routing = to_bytes(args.take_word())

    def take_timeout(self, args: Args) -> None:
        """`TIMEOUT ms`; here, and only here, 0 and negative values are taken and mean none."""
        if not args.left:
            raise args.error(NO_TIMEOUT_VALUE)
        value = strict_integer(args.take_word())
        if value is None:
            raise args.error(INVALID_TIMEOUT)
        self.timeout_ms = value if value > 0 else None

    def take_ex(self, args: Args) -> None:
        """`EX seconds`: expiry of the PERSIST keys."""
        value = strict_integer(args.take_word()) if args.left else None
        if value is None or not 0 < value <= _LONGEST_EX:
            raise args.error("ERR invalid expire time in DAG command")
        self.ex_seconds = value

    def take_flag(self, args: Args) -> None:
        """`KEEPTTL`, `IFUNCHANGED`: no value."""

    def _check_own_words(self, args: Args) -> None:
        if {"EX", "KEEPTTL"} <= self.seen:
            raise args.error("ERR EX and KEEPTTL cannot be used together in DAG command")
        if self.seen & {"EX", "KEEPTTL"} and not self.persist:
            raise args.error("ERR EX and KEEPTTL need PERSIST in DAG command")
        if "IFUNCHANGED" in self.seen and not (self.load and self.persist):
            raise args.error("ERR IFUNCHANGED needs LOAD and PERSIST in DAG command")


_PRELUDE_WORDS: dict[str, Callable[[_Prelude, Args], None]] = {
    "LOAD": _Prelude.take_load,
    "PERSIST": _Prelude.take_persist,
    "ROUTING": _Prelude.take_routing,
    "TIMEOUT": _Prelude.take_timeout,
    "EX": _Prelude.take_ex,
    "KEEPTTL": _Prelude.take_flag,
    "IFUNCHANGED": _Prelude.take_flag,
}


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
    """One operation; its look-ups join those of `args`."""
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
        operation = parse(argv, True)
    except CommandError as error:
        error.checks = (*args.checks, *error.checks)
        raise
    args.checks += _local_checks(operation)
    return operation


_OPERATIONS: dict[bytes, Callable[[Argv, bool], Operation]] = {
    b"AI.TENSORSET": parse_tensor_set,
    b"AI.TENSORGET": parse_tensor_get,
    b"AI.MODELEXECUTE": parse_model_execute,
    b"AI.SCRIPTEXECUTE": parse_script_execute,
    b"AI.MODELRUN": parse_model_run,
    b"AI.SCRIPTRUN": parse_script_run,
}
_REFUSED = {
    (b"AI.MODELRUN", False): "Deprecated AI.MODELRUN cannot be used in AI.DAGEXECUTE command",
    (b"AI.SCRIPTRUN", False): "Deprecated AI.SCRIPTRUN cannot be used in AI.DAGEXECUTE command",
    (b"AI.MODELEXECUTE", True): "AI.MODELEXECUTE cannot be used in a deprecated AI.DAGRUN command",
    (b"AI.SCRIPTEXECUTE", True): "AI.SCRIPTEXECUTE cannot be used in a deprecated AI.DAGRUN command",
}


def _resolve_names(args: Args, prelude: _Prelude, ops: tuple[Operation, ...]) -> None:
    known = set(prelude.load)
    for operation in ops:
        if not known.issuperset(operation.reads):
            raise args.error("ERR INPUT key cannot be found in DAG")
        known.update(operation.writes)
    if not known.issuperset(prelude.persist):
        raise args.error("ERR PERSIST key cannot be found in DAG")
