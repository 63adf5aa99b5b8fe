"""AI.MODELEXECUTE and AI.MODELRUN: one request, two parsers, rows.

Errors carry the look-ups that RedisAI makes before them (`commands.checks`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from redisai_py.commands._args import Args, Argv, is_word, show_word, strict_integer, to_bytes
from redisai_py.commands.arguments import TENSOR, TIMEOUT, Argument, counted, flag, several
from redisai_py.commands.checks import Check, ModelCounts, ModelExists
from redisai_py.commands.spec import RUN, CommandSpec, counted_scopes, only_key, run_keys
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, CommandError

__all__ = ["ROWS", "TIMEOUT_IN_DAG", "CacheUse", "ModelExecute", "parse_model_execute", "parse_model_run"]

TIMEOUT_IN_DAG = "ERR TIMEOUT not allowed within a DAG command"
_EXECUTE_ARITY = "ERR wrong number of arguments for 'AI.MODELEXECUTE' command"
_RUN_ARITY = "ERR wrong number of arguments for 'AI.MODELRUN' command"
_INPUTS_MISSING = "ERR INPUTS not specified"
_OUTPUTS_MISSING = "ERR OUTPUTS not specified"


class CacheUse(enum.Enum):
    """How a run uses the prediction cache: by rule, not at all, run and store, or never run."""

    RULE = ""
    NO = "NO"
    REFRESH = "REFRESH"
    ONLY = "ONLY"


_USES = {use.value.encode(): use for use in CacheUse if use.value}
_LONGEST_USE = max(map(len, _USES))


@dataclass(frozen=True, slots=True)
class ModelExecute:
    """Run a model. timeout_ms: limit of queueing, None without one.   cache: see `CacheUse`."""

    key: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    timeout_ms: int | None = None
    cache: CacheUse = CacheUse.RULE

    @property
    def local_checks(self) -> tuple[Check, ...]:
        """Look-ups of this operation in a DAG, where the inputs are local names."""
        return (ModelCounts(self.key, len(self.inputs), len(self.outputs)),)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return self.inputs

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return self.outputs


def parse_model_execute(argv: Argv, in_dag: bool = False) -> ModelExecute:
    """`AI.MODELEXECUTE key INPUTS ic tensor... OUTPUTS oc tensor... [TIMEOUT ms] [CACHE NO | REFRESH | ONLY]`.

    Raises: CommandError, after the arity check with the look-ups that precede it.
    """
    total = len(argv)
    if total < 8 and not (total == 7 and argv[3] == b"0"):  # a model without inputs
        raise CommandError(_EXECUTE_ARITY)
    key = argv[1] if type(argv[1]) is bytes else bytes(argv[1])
    if argv[2] != b"INPUTS" and not is_word(argv[2], b"INPUTS"):
        raise CommandError(_INPUTS_MISSING, (ModelExists(key),))
    ninputs = strict_integer(argv[3])
    outputs_at = 4 + ninputs if ninputs is not None else 0
    if ninputs is None or ninputs < 0 or outputs_at > total:
        raise _count_error(key, "input", ninputs, None)
    if outputs_at == total or (argv[outputs_at] != b"OUTPUTS" and not is_word(argv[outputs_at], b"OUTPUTS")):
        raise CommandError(_OUTPUTS_MISSING, (ModelCounts(key, ninputs, None),))
    noutputs = strict_integer(argv[outputs_at + 1]) if outputs_at + 1 < total else None
    end = outputs_at + 2 + noutputs if noutputs is not None else 0
    if noutputs is None or noutputs <= 0 or end > total:
        raise _count_error(key, "output", ninputs, noutputs)
    inputs = tuple(map(to_bytes, argv[4:outputs_at]))
    outputs = tuple(map(to_bytes, argv[outputs_at + 2 : end]))
    if end == total:
        return ModelExecute(key, inputs, outputs)
    timeout_ms, cache = _options(argv, end, (ModelCounts(key, ninputs, noutputs),), in_dag)
    return ModelExecute(key, inputs, outputs, timeout_ms, cache)


def _count_error(key: bytes, noun: str, ninputs: int | None, noutputs: int | None) -> CommandError:
    """The error for a wrong count. RedisAI compares it with the model's own before it counts the remaining words."""
    count = ninputs if noun == "input" else noutputs
    before: Check = ModelExists(key) if noun == "input" else ModelCounts(key, ninputs, None)
    if count is None:
        return CommandError(f"ERR Invalid argument for {noun}_count", (before,))
    if count <= 0:
        return CommandError(f"ERR {noun.capitalize()} count must be a positive integer", (before,))
    text = f"ERR number of {noun} keys to AI.MODELEXECUTE command does not match the number of given arguments"
    return CommandError(text, (ModelCounts(key, ninputs, noutputs),))


def _options(argv: Argv, at: int, checks: tuple[Check, ...], in_dag: bool) -> tuple[int | None, CacheUse]:
    """`TIMEOUT ms` and `CACHE use` at the end of a command, each at most once; nothing else is allowed there."""
    timeout_ms = cache = None
    while at < len(argv):
        if timeout_ms is None and is_word(argv[at], b"TIMEOUT"):
            if at + 1 == len(argv):
                raise CommandError(NO_TIMEOUT_VALUE, checks)
            timeout_ms = strict_integer(argv[at + 1])
            if timeout_ms is None or timeout_ms <= 0:
                raise CommandError(INVALID_TIMEOUT, checks)
        elif cache is None and is_word(argv[at], b"CACHE"):
            word = bytes(argv[at + 1]).upper() if at + 1 < len(argv) and len(argv[at + 1]) <= _LONGEST_USE else b""
            cache = _USES.get(word)
            if cache is None:
                raise CommandError("ERR CACHE must be NO, REFRESH or ONLY", checks)
        else:
            raise CommandError(f"Invalid argument: {show_word(argv[at])}", checks)
        at += 2
    if timeout_ms is not None and in_dag:
        raise CommandError(TIMEOUT_IN_DAG, checks)
    return timeout_ms, cache or CacheUse.RULE


def parse_model_run(argv: Argv, in_dag: bool = False) -> ModelExecute:
    """`AI.MODELRUN key [TIMEOUT ms] INPUTS t... OUTPUTS t...`; the first OUTPUTS is the keyword, further ones are keys.

    Raises: CommandError, after the arity check with the look-ups that precede it. The handler checks the counts.
    """
    if len(argv) < 6 and not (len(argv) == 5 and is_word(argv[3], b"OUTPUTS")):  # a model without inputs
        raise CommandError(_RUN_ARITY)
    key = to_bytes(argv[1])
    args = Args(argv, 2)
    args.checks.append(ModelExists(key))
    timeout_ms = None
    if args.accept(b"TIMEOUT"):
        timeout_ms = strict_integer(args.take_word())
        if timeout_ms is None or timeout_ms <= 0:
            raise args.error(INVALID_TIMEOUT)
        if in_dag:
            raise args.error(TIMEOUT_IN_DAG)
    if not args.accept(b"INPUTS"):
        raise args.error(_INPUTS_MISSING)
    names = args.take_words(args.left)
    split = next((at for at, name in enumerate(names) if is_word(name, b"OUTPUTS")), len(names))
    return ModelExecute(key, names[:split], names[split + 1 :], timeout_ms)


def _execute_keys(argv: Argv) -> list[bytes]:
    """AI.MODELEXECUTE: the model, INPUTS, OUTPUTS."""
    return [*only_key(argv), *counted_scopes(argv, 2, (b"INPUTS", b"OUTPUTS"))]


_MODEL = Argument("model", "key")

_EXECUTE = CommandSpec(
    name=b"AI.MODELEXECUTE",
    request=(ModelExecute,),
    parse=parse_model_execute,
    arity=-8,
    flags=RUN,
    first_key=4,
    keys=_execute_keys,
    in_dag=True,
    in_multi="refused",
    arguments=(
        _MODEL,
        counted("INPUTS", "input_count", TENSOR, optional=False),
        counted("OUTPUTS", "output_count", TENSOR, optional=False),
        TIMEOUT,
        Argument("use", "oneof", "CACHE", optional=True, arguments=(flag("NO"), flag("REFRESH"), flag("ONLY"))),
    ),
    summary="Runs a model on tensors.",
    since="1.2.0",
    group="models",
    complexity="Depends on the model",
    examples=(
        ("AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z", "+OK"),
        ("AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z TIMEOUT 5", "+TIMEDOUT"),
        (
            "AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z CACHE ONLY",
            "-MISS no prediction for these inputs is stored",
        ),
        ("AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z NOW", "-Invalid argument: NOW"),
    ),
)
ROWS = (
    _EXECUTE,
    replace(
        _EXECUTE,
        name=b"AI.MODELRUN",
        parse=parse_model_run,
        arity=-6,
        first_key=3,
        keys=run_keys,
        arguments=(_MODEL, TIMEOUT, several(TENSOR, token="INPUTS"), several(TENSOR, token="OUTPUTS")),
        since="1.0.0",
        replaced_by="AI.MODELEXECUTE",
        examples=(
            ("AI.MODELRUN mul TIMEOUT 100 INPUTS x y OUTPUTS z", "+OK"),
            ("AI.MODELRUN mul NOINPUTS x y OUTPUTS z", "-ERR INPUTS not specified"),
        ),
    ),
)
