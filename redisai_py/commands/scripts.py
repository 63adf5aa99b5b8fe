"""AI.SCRIPT*: words to requests.

AI.SCRIPTSET parses to the request of AI.SCRIPTSTORE, and AI.SCRIPTRUN to that of AI.SCRIPTEXECUTE.
Names of functions are text, keys and arguments bytes. Source: AI.SCRIPT* commands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from redisai_py.commands._args import (
    Args,
    Argv,
    is_word,
    lenient_integer,
    name_text,
    show_word,
    strict_integer,
    to_bytes,
)
from redisai_py.commands.checks import Check, ScriptExists
from redisai_py.commands.models import TIMEOUT_IN_DAG
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, CommandError, WrongArity
from redisai_py.tensor import Buffer, Device

__all__ = [
    "ScriptDel",
    "ScriptExecute",
    "ScriptGet",
    "ScriptScan",
    "ScriptStore",
    "parse_script_del",
    "parse_script_execute",
    "parse_script_get",
    "parse_script_run",
    "parse_script_scan",
    "parse_script_set",
    "parse_script_store",
]

_UNSUPPORTED_DEVICE = "ERR unsupported device"
_MISSING_ENTRY_POINTS = "ERR Insufficient arguments, missing script entry points"
_MISSING_SOURCE = "ERR Insufficient arguments, missing script SOURCE"
_SCOPE_FIRST = "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"
_TOO_FEW_KEYS = "ERR Number of pre declared KEYS to be used in the command does not match the number of given arguments"
_VARIADIC_OUTSIDE = "ERR Encountered a variable size list of tensors outside of input section"
_VARIADIC_AGAIN = "ERR Already encountered a variable size list of tensors"
# "keys" for ARGS and "Unrecongnized" are RedisAI's own words.
_COUNT_NOUN = {"INPUTS": "inputs", "ARGS": "keys", "OUTPUTS": "outputs"}
_UNRECOGNIZED = "ERR Unrecongnized parameter to SCRIPTRUN"


@dataclass(frozen=True, slots=True)
class ScriptStore:
    """Compile a script and store it. entry_points: none if sent as AI.SCRIPTSET."""

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


@dataclass(frozen=True, slots=True)
class ScriptExecute:
    """Run a function of a script.

    keys: names handed to the function, not opened.   args: words handed to it.   inputs, outputs: tensor keys.
    timeout_ms: bound on queueing, None without one.
    """

    key: bytes
    function: str
    keys: tuple[bytes, ...] = ()
    inputs: tuple[bytes, ...] = ()
    args: tuple[bytes, ...] = ()
    outputs: tuple[bytes, ...] = ()
    timeout_ms: int | None = None

    @property
    def local_checks(self) -> tuple[Check, ...]:
        """What is looked up as an operation of a DAG, where the inputs are local names."""
        return (ScriptExists(self.key),)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return self.inputs

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return self.outputs


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
    entry_points = tuple(_c_string(name) for name in args.take_words(count))
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
    return _c_string(args.take_word())


def _c_string(word: Buffer) -> str:
    """A word as text up to its first NUL, as a C program reads it."""
    return name_text(to_bytes(word).partition(b"\0")[0])


def _device(word: Buffer) -> Device:
    return Device.parse_loosely(word, _UNSUPPORTED_DEVICE)


def parse_script_get(argv: Argv) -> ScriptGet:
    """`AI.SCRIPTGET key [META] [SOURCE]`; other words are ignored. Raises: WrongArity."""
    if not 2 <= len(argv) <= 4:
        raise WrongArity(bytes(argv[0]))
    meta = any(is_word(word, b"META") for word in argv[2:])
    source = any(is_word(word, b"SOURCE") for word in argv[2:])
    return ScriptGet(to_bytes(argv[1]), meta or not source, source or not meta)


def parse_script_del(argv: Argv) -> ScriptDel:
    """`AI.SCRIPTDEL key`. Raises: WrongArity."""
    if len(argv) != 2:
        raise WrongArity(bytes(argv[0]))
    return ScriptDel(to_bytes(argv[1]))


def parse_script_scan(argv: Argv) -> ScriptScan:
    """`AI._SCRIPTSCAN`. Raises: WrongArity."""
    if len(argv) != 1:
        raise WrongArity(bytes(argv[0]))
    return ScriptScan()


def parse_script_execute(argv: Argv, in_dag: bool = False) -> ScriptExecute:
    """`AI.SCRIPTEXECUTE key function [KEYS n key...] [INPUTS n tensor...] [ARGS n arg...] [OUTPUTS n tensor...]
    [TIMEOUT ms]`.

    Scopes in any order, each at most once; outside a DAG KEYS or INPUTS must be the first.

    Raises: CommandError, after arity with the look-up of the script.
    """
    if len(argv) < 3:
        raise CommandError("ERR wrong number of arguments for 'AI.SCRIPTEXECUTE' command")
    key = to_bytes(argv[1])
    args = Args(argv, 3)
    args.checks.append(ScriptExists(key))
    if not in_dag and not (args.left and (is_word(argv[3], b"KEYS") or is_word(argv[3], b"INPUTS"))):
        raise args.error(_SCOPE_FIRST)
    scopes: dict[str, tuple[bytes, ...]] = {}
    timeout_ms = None
    while args.left:
        word = args.take_word()
        name = bytes(word).upper().decode("latin-1") if len(word) <= 7 else ""
        if name in scopes:
            raise args.error(f"ERR Already Encountered {name} scope in AI.SCRIPTEXECUTE command")
        if name == "KEYS":
            scopes[name] = _keys_scope(args)
        elif name in _COUNT_NOUN:
            scopes[name] = _counted_scope(args, name)
        elif name == "TIMEOUT":
            timeout_ms = _last_timeout(args)
        else:
            raise args.error(f"ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: {show_word(word)}")
    if in_dag and timeout_ms is not None:
        raise args.error(TIMEOUT_IN_DAG)
    keys, inputs, arguments, outputs = (scopes.get(name, ()) for name in ("KEYS", "INPUTS", "ARGS", "OUTPUTS"))
    return ScriptExecute(key, _c_string(argv[2]), keys, inputs, arguments, outputs, timeout_ms)


def _keys_scope(args: Args) -> tuple[bytes, ...]:
    if args.left < 2:
        raise args.error("ERR Missing arguments after KEYS keyword")
    count = strict_integer(args.take_word())
    if count is None or count <= 0:
        raise args.error("ERR Invalid or negative value found in number of KEYS")
    if count > args.left:
        raise args.error(_TOO_FEW_KEYS)
    return args.take_words(count)


def _counted_scope(args: Args, scope: str) -> tuple[bytes, ...]:
    if not args.left:
        raise args.error("ERR Invalid arguments provided to AI.SCRIPTEXECUTE")
    count = strict_integer(args.take_word())
    if count is None or count < 0:
        raise args.error(f"ERR Invalid argument for {_COUNT_NOUN[scope]} count in AI.SCRIPTEXECUTE")
    if count > args.left:
        text = f"ERR number of {scope.lower()} to AI.SCRIPTEXECUTE command does not match the number of given arguments"
        raise args.error(text)
    return args.take_words(count)


def _last_timeout(args: Args) -> int:
    """The value of TIMEOUT, which ends the command."""
    if not args.left:
        raise args.error("ERR No value provided for TIMEOUT in AI.SCRIPTEXECUTE")
    timeout_ms = strict_integer(args.take_word())
    if timeout_ms is None or timeout_ms <= 0:
        raise args.error(INVALID_TIMEOUT)
    if args.left:
        raise args.error("ERR Encountered problem parsing AI.SCRIPTEXECUTE")
    return timeout_ms


@dataclass(slots=True)
class _RunScan:
    """State of the one pass over the words of AI.SCRIPTRUN."""

    args: Args
    in_dag: bool
    section: list[bytes] | None = None
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    outputs_seen: bool = False
    variadic_seen: bool = False
    timeout_ms: int | None = None

    def take(self, word: Buffer) -> None:
        """Go on by one word of the command."""
        if is_word(word, b"TIMEOUT"):
            self._timeout()
        elif is_word(word, b"INPUTS"):
            if self.outputs_seen:
                raise self.args.error("ERR Already encountered an INPUTS section in SCRIPTRUN")
            if self.section is not None:
                raise self.args.error("ERR Already encountered an INPUTS keyword in SCRIPTRUN")
            self.section = self.inputs
        elif is_word(word, b"OUTPUTS"):
            if self.outputs_seen:
                raise self.args.error("ERR Already encountered an OUTPUTS keyword in SCRIPTRUN")
            self.outputs_seen, self.section = True, self.outputs
        elif is_word(word, b"$"):
            self._variadic()
        elif self.section is None:
            raise self.args.error(_UNRECOGNIZED)
        else:
            self.section.append(to_bytes(word))

    def _timeout(self) -> None:
        if self.timeout_ms is not None:
            raise self.args.error("ERR Already encountered an TIMEOUT section in SCRIPTRUN")
        if not self.args.left:
            raise self.args.error(NO_TIMEOUT_VALUE)
        self.timeout_ms = strict_integer(self.args.take_word())
        if self.timeout_ms is None or self.timeout_ms <= 0:
            raise self.args.error(INVALID_TIMEOUT)
        if self.in_dag:
            raise self.args.error(TIMEOUT_IN_DAG)

    def _variadic(self) -> None:
        # The function's signature decides where its variadic list starts; the sign is checked and dropped.
        if self.section is not self.inputs:
            raise self.args.error(_VARIADIC_OUTSIDE)
        if self.variadic_seen:
            raise self.args.error(_VARIADIC_AGAIN)
        self.variadic_seen = True


def parse_script_run(argv: Argv, in_dag: bool = False) -> ScriptExecute:
    """`AI.SCRIPTRUN key function [TIMEOUT ms] INPUTS tensor... [$ tensor...] [OUTPUTS tensor...]`.

    Raises: CommandError, after arity with the look-up of the script.
    """
    if len(argv) < 3:
        raise CommandError("ERR wrong number of arguments for 'AI.SCRIPTRUN' command")
    key = to_bytes(argv[1])
    args = Args(argv, 3)
    args.checks.append(ScriptExists(key))
    scan = _RunScan(args, in_dag)
    while args.left:
        scan.take(args.take_word())
    inputs, outputs = tuple(scan.inputs), tuple(scan.outputs)
    function = _c_string(argv[2])
    return ScriptExecute(key, function, (), inputs, (), outputs, scan.timeout_ms)
