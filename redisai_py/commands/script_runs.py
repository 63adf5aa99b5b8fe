"""AI.SCRIPTEXECUTE and AI.SCRIPTRUN: one request, two parsers, rows.

Function names are text, keys and arguments bytes. Errors carry the look-up of the script (`commands.checks`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from redisai_py.commands._args import Args, Argv, is_word, show_word, strict_integer, to_bytes
from redisai_py.commands.arguments import KEY, TENSOR, TIMEOUT, Argument, counted, several
from redisai_py.commands.checks import Check, ScriptExists
from redisai_py.commands.model_runs import TIMEOUT_IN_DAG
from redisai_py.commands.scripts import c_string
from redisai_py.commands.spec import RUN, CommandSpec, counted_scopes, only_key, run_keys
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, CommandError
from redisai_py.tensor import Buffer

__all__ = ["ROWS", "ScriptExecute", "parse_script_execute", "parse_script_run"]

_SCOPE_FIRST = "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"
_TOO_FEW_KEYS = "ERR Number of pre declared KEYS to be used in the command does not match the number of given arguments"
_VARIADIC_OUTSIDE = "ERR Encountered a variable size list of tensors outside of input section"
_VARIADIC_AGAIN = "ERR Already encountered a variable size list of tensors"
# "keys" for ARGS and "Unrecongnized" are RedisAI's own words.
_COUNT_NOUN = {"INPUTS": "inputs", "ARGS": "keys", "OUTPUTS": "outputs"}
_UNRECOGNIZED = "ERR Unrecongnized parameter to SCRIPTRUN"


@dataclass(frozen=True, slots=True)
class ScriptExecute:
    """Call a function of a script.

    keys: names passed to the function, not opened.   args: words passed to it.   inputs, outputs: tensor keys.
    timeout_ms: limit of queueing, None without one.
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
        """Look-ups of this operation in a DAG, where the inputs are local names."""
        return (ScriptExists(self.key),)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return self.inputs

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return self.outputs


def parse_script_execute(argv: Argv, in_dag: bool = False) -> ScriptExecute:
    """`AI.SCRIPTEXECUTE key function [KEYS n key...] [INPUTS n tensor...] [ARGS n arg...] [OUTPUTS n tensor...]
    [TIMEOUT ms]`.

    Scopes in any order, each at most once; outside a DAG KEYS or INPUTS must be the first.

    Raises: CommandError, after the arity check with the look-up of the script.
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
    return ScriptExecute(key, c_string(argv[2]), keys, inputs, arguments, outputs, timeout_ms)


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
    """The value of TIMEOUT, which must end the command."""
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
    """State of the single pass over the words of AI.SCRIPTRUN."""

    args: Args
    in_dag: bool
    section: list[bytes] | None = None
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    outputs_seen: bool = False
    variadic_seen: bool = False
    timeout_ms: int | None = None

    def take(self, word: Buffer) -> None:
        """Process the next word of the command."""
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
        # The function's signature determines where its variadic list starts; the `$` is checked and dropped.
        if self.section is not self.inputs:
            raise self.args.error(_VARIADIC_OUTSIDE)
        if self.variadic_seen:
            raise self.args.error(_VARIADIC_AGAIN)
        self.variadic_seen = True


def parse_script_run(argv: Argv, in_dag: bool = False) -> ScriptExecute:
    """`AI.SCRIPTRUN key function [TIMEOUT ms] INPUTS tensor... [$ tensor...] [OUTPUTS tensor...]`.

    Raises: CommandError, after the arity check with the look-up of the script.
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
    function = c_string(argv[2])
    return ScriptExecute(key, function, (), inputs, (), outputs, scan.timeout_ms)


def _execute_keys(argv: Argv) -> list[bytes]:
    """AI.SCRIPTEXECUTE: the script, then KEYS, INPUTS and OUTPUTS in the order given.

    RedisAI misses a list at the end of the command or after ARGS; this returns all of them.
    """
    return [*only_key(argv), *counted_scopes(argv, 3, (b"KEYS", b"INPUTS", b"OUTPUTS"))]


_SCRIPT = Argument("script", "key")
_FUNCTION = Argument("function", "string")

_EXECUTE = CommandSpec(
    name=b"AI.SCRIPTEXECUTE",
    request=(ScriptExecute,),
    parse=parse_script_execute,
    arity=-3,
    flags=RUN,
    first_key=5,
    keys=_execute_keys,
    in_dag=True,
    in_multi="refused",
    arguments=(
        _SCRIPT,
        _FUNCTION,
        counted("KEYS", "key_count", KEY),
        counted("INPUTS", "input_count", TENSOR),
        counted("ARGS", "arg_count", Argument("arg", "string")),
        counted("OUTPUTS", "output_count", TENSOR),
        TIMEOUT,
    ),
    summary="Runs a function of a script.",
    since="1.2.3",
    group="scripts",
    complexity="Depends on the function",
    examples=(
        ("AI.SCRIPTEXECUTE pre norm INPUTS 1 img OUTPUTS 1 x", "+OK"),
        ("AI.SCRIPTEXECUTE pre norm KEYS 1 cfg{7} ARGS 2 0.5 abc OUTPUTS 1 x{7}", "+OK"),
        (
            "AI.SCRIPTEXECUTE pre norm INPUTS 1 img TIMEOUT 9 OUTPUTS 1 x",
            "-ERR Encountered problem parsing AI.SCRIPTEXECUTE",
        ),
    ),
)
ROWS = (
    _EXECUTE,
    replace(
        _EXECUTE,
        name=b"AI.SCRIPTRUN",
        parse=parse_script_run,
        first_key=4,
        keys=run_keys,
        arguments=(
            _SCRIPT,
            _FUNCTION,
            TIMEOUT,
            several(TENSOR, optional=True, token="INPUTS"),
            several(TENSOR, optional=True, token="OUTPUTS"),
        ),
        since="1.0.0",
        replaced_by="AI.SCRIPTEXECUTE",
        examples=(
            ("AI.SCRIPTRUN old addn INPUTS a $ b1 b2 OUTPUTS c", "+OK"),
            (
                "AI.SCRIPTRUN old addn INPUTS $ a $ b OUTPUTS c",
                "-ERR Already encountered a variable size list of tensors",
            ),
        ),
    ),
)
