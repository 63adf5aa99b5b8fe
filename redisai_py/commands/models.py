"""AI.MODEL*: words to requests.

AI.MODELSET parses to the request of AI.MODELSTORE, and AI.MODELRUN to that of AI.MODELEXECUTE; the blob's words are
kept as they came. Errors of the run commands carry the look-ups that precede them. Source: AI.MODEL*
commands.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from redisai_py.commands.checks import Check, ModelCounts, ModelExists
from redisai_py.errors import INVALID_TIMEOUT, NO_TIMEOUT_VALUE, UNSUPPORTED_BACKEND, CommandError, WrongArity
from redisai_py.tensor import Buffer, Device

__all__ = [
    "TIMEOUT_IN_DAG",
    "ModelDel",
    "ModelExecute",
    "ModelGet",
    "ModelScan",
    "ModelStore",
    "accept_backend",
    "parse_backend",
    "parse_model_del",
    "parse_model_execute",
    "parse_model_get",
    "parse_model_run",
    "parse_model_scan",
    "parse_model_set",
    "parse_model_store",
]

TIMEOUT_IN_DAG = "ERR TIMEOUT not allowed within a DAG command"

_MISSING_BLOB = "ERR Insufficient arguments, missing model BLOB"
_EXPECTED_BLOB = "ERR Invalid argument, expected BLOB"
_TOO_FEW_NAMES = "ERR number of model {} does not match the number of given arguments"
_EXECUTE_ARITY = "ERR wrong number of arguments for 'AI.MODELEXECUTE' command"
_RUN_ARITY = "ERR wrong number of arguments for 'AI.MODELRUN' command"
_INPUTS_MISSING = "ERR INPUTS not specified"
_OUTPUTS_MISSING = "ERR OUTPUTS not specified"

_BACKENDS = {b"TF", b"TFLITE", b"TORCH", b"ONNX"}
_LONGEST_BACKEND = 64
_LONGEST_SET_DEVICE = 10
_SET_KEYWORDS = (b"INPUTS", b"OUTPUTS", b"TAG", b"BATCHSIZE", b"MINBATCHSIZE", b"MINBATCHTIMEOUT", b"BLOB")


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Build a model and store it.

    backend: wire name, upper case.   device: as typed.   inputs, outputs: node names, TF only.
    batchsize, minbatchsize: rows, 0 is off.   minbatchtimeout_ms: 0 waits without limit.
    chunks: the model's bytes in one or more pieces, as received.
    """

    key: bytes
    backend: str
    device: Device
    chunks: tuple[Buffer, ...]
    tag: bytes = b""
    batchsize: int = 0
    minbatchsize: int = 0
    minbatchtimeout_ms: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelGet:
    """Read a model's description (meta), its bytes (blob), or both."""

    key: bytes
    meta: bool
    blob: bool


@dataclass(frozen=True, slots=True)
class ModelDel:
    """Delete a model."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ModelScan:
    """List the keys and tags of all models."""


@dataclass(frozen=True, slots=True)
class ModelExecute:
    """Run a model. timeout_ms: bound on queueing, None without one."""

    key: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    timeout_ms: int | None = None

    @property
    def local_checks(self) -> tuple[Check, ...]:
        """What is looked up as an operation of a DAG, where the inputs are local names."""
        return (ModelCounts(self.key, len(self.inputs), len(self.outputs)),)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return self.inputs

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return self.outputs


def accept_backend(name: str) -> None:
    """Let AI.MODELSTORE, AI.MODELSET and AI.CONFIG LOADBACKEND name one more backend.

    TF, TFLITE, TORCH and ONNX are always known; the server calls this at start for every other installed plugin.
    """
    _BACKENDS.add(name.upper().encode())


def parse_backend(word: Buffer) -> str:
    """The backend's wire name, upper case. Raises: CommandError `ERR unsupported backend`."""
    name = bytes(word).upper() if len(word) <= _LONGEST_BACKEND else b""
    if name not in _BACKENDS:
        raise CommandError(UNSUPPORTED_BACKEND)
    return name.decode()


def parse_model_store(argv: Argv) -> ModelStore:
    """`AI.MODELSTORE key backend device [TAG t] [BATCHSIZE n] [MINBATCHSIZE m] [MINBATCHTIMEOUT ms]
    [INPUTS ic name... OUTPUTS oc name...] BLOB chunk...`, options in this order.

    Raises: WrongArity, CommandError. Copies: never a chunk.
    """
    if len(argv) < 6:
        raise WrongArity(bytes(argv[0]))
    key, backend, device = to_bytes(argv[1]), parse_backend(argv[2]), Device.parse(bytes(argv[3][:10]))
    args = Args(argv, 4)
    tag = to_bytes(args.take_word()) if args.accept(b"TAG") else b""
    batchsize = _batch_option(args, b"BATCHSIZE")
    minbatchsize = _batch_option(args, b"MINBATCHSIZE")
    if minbatchsize and not batchsize:
        raise CommandError("ERR MINBATCHSIZE specified without BATCHSIZE")
    minbatchtimeout_ms = _batch_option(args, b"MINBATCHTIMEOUT")
    if minbatchtimeout_ms and not minbatchsize:
        raise CommandError("ERR MINBATCHTIMEOUT specified without MINBATCHSIZE")
    if not args.left:
        raise CommandError(_MISSING_BLOB)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    if backend == "TF":
        inputs = _counted_names(args, b"INPUTS", "input")
        outputs = _counted_names(args, b"OUTPUTS", "output")
    elif args.accept(b"INPUTS"):
        raise CommandError("ERR INPUTS argument should not be specified for this backend")
    if not args.accept(b"BLOB"):
        raise CommandError(_EXPECTED_BLOB)
    if not args.left:
        raise CommandError(_MISSING_BLOB)
    chunks = tuple(argv[args.pos :])
    return ModelStore(key, backend, device, chunks, tag, batchsize, minbatchsize, minbatchtimeout_ms, inputs, outputs)


def _batch_option(args: Args, keyword: bytes) -> int:
    """The value of an optional BATCHSIZE, MINBATCHSIZE or MINBATCHTIMEOUT, 0 if it is not there."""
    if not args.accept(keyword):
        return 0
    value = lenient_integer(args.take_word()) if args.left else None
    if value is None or value < 0:
        raise CommandError(f"ERR Invalid argument for {keyword.decode()}")
    return value


def _counted_names(args: Args, keyword: bytes, noun: str) -> tuple[str, ...]:
    """`INPUTS n name...` or `OUTPUTS n name...` of a TF model."""
    if not args.accept(keyword):
        raise CommandError(f"ERR {keyword.decode()} not specified for TF")
    count = lenient_integer(args.take_word()) if args.left else None
    if count is None or count < 1:
        raise CommandError(f"ERR Invalid argument for {noun}_count")
    if count > args.left:
        raise CommandError(_TOO_FEW_NAMES.format(noun + "s"))
    return tuple(map(name_text, args.take_words(count)))


def parse_model_set(argv: Argv) -> ModelStore:
    """`AI.MODELSET key backend device [TAG t] [BATCHSIZE n] [MINBATCHSIZE m] [MINBATCHTIMEOUT ms]
    [INPUTS name... OUTPUTS name...] BLOB chunk...`; for other backends than TF, words before BLOB are ignored.

    Raises: WrongArity, CommandError. Copies: never a chunk.
    """
    if len(argv) < 4:
        raise WrongArity(bytes(argv[0]))
    key, backend = to_bytes(argv[1]), parse_backend(argv[2])
    if len(argv[3]) > _LONGEST_SET_DEVICE or any(is_word(argv[3], keyword) for keyword in _SET_KEYWORDS):
        raise CommandError("ERR Invalid DEVICE")
    args = Args(argv, 4)
    tag = to_bytes(args.take_word()) if args.accept(b"TAG") and args.left else b""
    batch = _set_batch_options(args, backend)
    blob_at = next((at for at in range(args.pos, args.end) if is_word(argv[at], b"BLOB")), args.end)
    inputs, outputs = _set_names(argv[args.pos : blob_at]) if backend == "TF" else ((), ())
    if blob_at >= args.end - 1:
        raise CommandError(_MISSING_BLOB)
    # The framework refuses the device, so this comes last; TFLITE's text differs in one letter.
    device = Device.parse_loosely(argv[3], f"ERR {'U' if backend == 'TFLITE' else 'u'}nsupported device")
    return ModelStore(key, backend, device, tuple(argv[blob_at + 1 :]), tag, *batch, inputs, outputs)


def _set_batch_options(args: Args, backend: str) -> tuple[int, int, int]:
    """BATCHSIZE, MINBATCHSIZE, MINBATCHTIMEOUT of AI.MODELSET; what they depend on is checked before the value."""
    if backend == "TFLITE" and args.left and is_word(args.argv[args.pos], b"BATCHSIZE"):
        raise CommandError("ERR Auto-batching not supported by the TFLITE backend")
    batchsize = _batch_option(args, b"BATCHSIZE")
    if not batchsize and args.left and is_word(args.argv[args.pos], b"MINBATCHSIZE"):
        raise CommandError("ERR MINBATCHSIZE specified without BATCHSIZE")
    minbatchsize = _batch_option(args, b"MINBATCHSIZE")
    if args.left and is_word(args.argv[args.pos], b"MINBATCHTIMEOUT"):
        if not batchsize:
            raise CommandError("ERR MINBATCHTIMEOUT specified without BATCHSIZE")
        if not minbatchsize:
            raise CommandError("ERR MINBATCHTIMEOUT specified without MINBATCHSIZE")
    return batchsize, minbatchsize, _batch_option(args, b"MINBATCHTIMEOUT")


def _set_names(words: Argv) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Node names of a TF model in AI.MODELSET: `INPUTS name... OUTPUTS name...`, without counts."""
    if not words:
        raise CommandError("ERR Insufficient arguments, INPUTS and OUTPUTS not specified")
    if not is_word(words[0], b"INPUTS"):
        raise CommandError(_INPUTS_MISSING)
    split = next((at for at, word in enumerate(words) if is_word(word, b"OUTPUTS")), None)
    if split is None:
        raise CommandError(_OUTPUTS_MISSING)
    return tuple(map(name_text, words[1:split])), tuple(map(name_text, words[split + 1 :]))


def parse_model_get(argv: Argv) -> ModelGet:
    """`AI.MODELGET key [META] [BLOB]`; other words are ignored. Raises: WrongArity."""
    if not 2 <= len(argv) <= 4:
        raise WrongArity(bytes(argv[0]))
    meta = any(is_word(word, b"META") for word in argv[2:])
    blob = any(is_word(word, b"BLOB") for word in argv[2:])
    return ModelGet(to_bytes(argv[1]), meta or not blob, blob or not meta)


def parse_model_del(argv: Argv) -> ModelDel:
    """`AI.MODELDEL key`. Raises: WrongArity."""
    if len(argv) != 2:
        raise WrongArity(bytes(argv[0]))
    return ModelDel(to_bytes(argv[1]))


def parse_model_scan(argv: Argv) -> ModelScan:
    """`AI._MODELSCAN`. Raises: WrongArity."""
    if len(argv) != 1:
        raise WrongArity(bytes(argv[0]))
    return ModelScan()


def parse_model_execute(argv: Argv, in_dag: bool = False) -> ModelExecute:
    """`AI.MODELEXECUTE key INPUTS ic tensor... OUTPUTS oc tensor... [TIMEOUT ms]`.

    Raises: CommandError, after arity with the look-ups that precede it.
    """
    total = len(argv)
    if total < 8:
        raise CommandError(_EXECUTE_ARITY)
    key = argv[1] if type(argv[1]) is bytes else bytes(argv[1])
    if argv[2] != b"INPUTS" and not is_word(argv[2], b"INPUTS"):
        raise CommandError(_INPUTS_MISSING, (ModelExists(key),))
    ninputs = strict_integer(argv[3])
    outputs_at = 4 + ninputs if ninputs is not None else 0
    if ninputs is None or ninputs <= 0 or outputs_at > total:
        raise _count_error(key, "input", ninputs, None)
    if outputs_at == total or (argv[outputs_at] != b"OUTPUTS" and not is_word(argv[outputs_at], b"OUTPUTS")):
        raise CommandError(_OUTPUTS_MISSING, (ModelCounts(key, ninputs, None),))
    noutputs = strict_integer(argv[outputs_at + 1]) if outputs_at + 1 < total else None
    end = outputs_at + 2 + noutputs if noutputs is not None else 0
    if noutputs is None or noutputs <= 0 or end > total:
        raise _count_error(key, "output", ninputs, noutputs)
    inputs = tuple(map(to_bytes, argv[4:outputs_at]))
    outputs = tuple(map(to_bytes, argv[outputs_at + 2 : end]))
    timeout_ms = None
    if end < total:
        timeout_ms = _trailing_timeout(argv, end, (ModelCounts(key, ninputs, noutputs),), in_dag)
    return ModelExecute(key, inputs, outputs, timeout_ms)


def _count_error(key: bytes, noun: str, ninputs: int | None, noutputs: int | None) -> CommandError:
    """What is wrong with a count; the model's own count is compared before the words that are left."""
    count = ninputs if noun == "input" else noutputs
    before: Check = ModelExists(key) if noun == "input" else ModelCounts(key, ninputs, None)
    if count is None:
        return CommandError(f"ERR Invalid argument for {noun}_count", (before,))
    if count <= 0:
        return CommandError(f"ERR {noun.capitalize()} count must be a positive integer", (before,))
    text = f"ERR number of {noun} keys to AI.MODELEXECUTE command does not match the number of given arguments"
    return CommandError(text, (ModelCounts(key, ninputs, noutputs),))


def _trailing_timeout(argv: Argv, at: int, checks: tuple[Check, ...], in_dag: bool) -> int:
    """`TIMEOUT ms` at the end of a command; nothing else may stand there."""
    if not is_word(argv[at], b"TIMEOUT"):
        raise CommandError(f"Invalid argument: {show_word(argv[at])}", checks)
    if at + 1 == len(argv):
        raise CommandError(NO_TIMEOUT_VALUE, checks)
    timeout_ms = strict_integer(argv[at + 1])
    if timeout_ms is None or timeout_ms <= 0:
        raise CommandError(INVALID_TIMEOUT, checks)
    if at + 2 < len(argv):
        raise CommandError(f"Invalid argument: {show_word(argv[at + 2])}", checks)
    if in_dag:
        raise CommandError(TIMEOUT_IN_DAG, checks)
    return timeout_ms


def parse_model_run(argv: Argv, in_dag: bool = False) -> ModelExecute:
    """`AI.MODELRUN key [TIMEOUT ms] INPUTS t... OUTPUTS t...`; the first OUTPUTS is the keyword, another one a key.

    Raises: CommandError, after arity with the look-ups that precede it. The counts are the handler's check.
    """
    if len(argv) < 6:
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
