"""AI.MODELSTORE, AI.MODELSET, AI.MODELGET, AI.MODELDEL, AI._MODELSCAN: requests, parsers, replies and rows.

AI.MODELSET parses to the request of AI.MODELSTORE. A request keeps the words of the blob unchanged.
Source: AI.MODEL* commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from redisai_py.blobs import Blob
from redisai_py.commands._args import Args, Argv, is_word, lenient_integer, name_text, text_name, to_bytes
from redisai_py.commands.arguments import DEVICE, KEY, NAME, TAG, Argument, counted, flag, option, several
from redisai_py.commands.backends import BACKEND, parse_backend
from redisai_py.commands.spec import DELETE, READ, WRITE, CommandSpec, key_alone, key_and_parts, no_keys, nothing
from redisai_py.errors import CommandError, WrongArity
from redisai_py.model import Model
from redisai_py.resp.replies import Reply
from redisai_py.tensor import Buffer, Device

__all__ = [
    "ROWS",
    "ModelDel",
    "ModelGet",
    "ModelScan",
    "ModelStore",
    "model_reply",
    "scan_reply",
]

_MISSING_BLOB = "ERR Insufficient arguments, missing model BLOB"
_EXPECTED_BLOB = "ERR Invalid argument, expected BLOB"
_TOO_FEW_NAMES = "ERR number of model {} does not match the number of given arguments"
_INPUTS_MISSING = "ERR INPUTS not specified"
_OUTPUTS_MISSING = "ERR OUTPUTS not specified"

_LONGEST_SET_DEVICE = 10
_SET_KEYWORDS = (b"INPUTS", b"OUTPUTS", b"TAG", b"BATCHSIZE", b"MINBATCHSIZE", b"MINBATCHTIMEOUT", b"BLOB")


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Build a model and store it.

    backend: wire name, upper case.   device: as typed.   inputs, outputs: node names, TF only.
    batchsize, minbatchsize: rows, 0 is off.   minbatchtimeout_ms: 0 waits without limit.
    chunks: the model's bytes in one or more pieces, as received.
    signature: of a TFLITE model or a SavedModel; empty for the main one, or the one that has the names. The names of a
               SavedModel are optional; the default is all of them.
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
    signature: str = ""


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


def parse_model_store(argv: Argv) -> ModelStore:
    """`AI.MODELSTORE key backend device [TAG t] [BATCHSIZE n] [MINBATCHSIZE m] [MINBATCHTIMEOUT ms]
    [SIGNATURE name] [INPUTS ic name... OUTPUTS oc name...] BLOB chunk...`, options in this order.

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
    nodes: tuple[tuple[str, ...], tuple[str, ...], str] = ((), (), "")
    if backend == "TF":
        nodes = _nodes(args)
    else:
        nodes = (), (), _signature(args) if backend == "TFLITE" else ""
        if args.accept(b"INPUTS"):
            raise CommandError("ERR INPUTS argument should not be specified for this backend")
    if not args.accept(b"BLOB"):
        raise CommandError(_EXPECTED_BLOB)
    if not args.left:
        raise CommandError(_MISSING_BLOB)
    chunks = tuple(argv[args.pos :])
    batching = (batchsize, minbatchsize, minbatchtimeout_ms)
    return ModelStore(key, backend, device, chunks, tag, *batching, *nodes)


def _nodes(args: Args) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """A TF model's inputs, outputs and signature. The names are optional for a SavedModel."""
    signature = _signature(args)
    if args.left > 1 and is_word(args.argv[args.pos], b"BLOB"):
        return (), (), signature
    return _counted_names(args, b"INPUTS", "input"), _counted_names(args, b"OUTPUTS", "output"), signature


def _signature(args: Args) -> str:
    return name_text(args.take_word()) if args.left > 1 and args.accept(b"SIGNATURE") else ""


def _batch_option(args: Args, keyword: bytes) -> int:
    """The value of an optional BATCHSIZE, MINBATCHSIZE or MINBATCHTIMEOUT, 0 if absent."""
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
    none = count == 0 and args.left and is_word(args.argv[args.pos], b"OUTPUTS")  # a graph without inputs
    if count is None or (count < 1 and not none):
        raise CommandError(f"ERR Invalid argument for {noun}_count")
    if count > args.left:
        raise CommandError(_TOO_FEW_NAMES.format(noun + "s"))
    return tuple(map(name_text, args.take_words(count)))


def parse_model_set(argv: Argv) -> ModelStore:
    """`AI.MODELSET key backend device [TAG t] [BATCHSIZE n] [MINBATCHSIZE m] [MINBATCHTIMEOUT ms]
    [INPUTS name... OUTPUTS name...] BLOB chunk...`; for backends other than TF, words before BLOB are ignored.

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
    # The framework refuses the device, so this check comes last; TFLITE's text differs in one letter.
    device = Device.parse_loosely(argv[3], f"ERR {'U' if backend == 'TFLITE' else 'u'}nsupported device")
    return ModelStore(key, backend, device, tuple(argv[blob_at + 1 :]), tag, *batch, inputs, outputs)


def _set_batch_options(args: Args, backend: str) -> tuple[int, int, int]:
    """BATCHSIZE, MINBATCHSIZE, MINBATCHTIMEOUT of AI.MODELSET; dependencies are checked before values."""
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


def model_reply(request: ModelGet, model: Model, chunk_size: int) -> Reply:
    """AI.MODELGET: 16 items, 18 with the blob, or the blob alone.

    Args: chunk_size: MODEL_CHUNK_SIZE in bytes. A blob of at least this size is an array of floor(length / size) + 1
          bulk strings, the last one empty if the length is a multiple of the size.
    """
    if not request.meta:
        return _chunked(model.blob, chunk_size)
    reply: list[Any] = [
        *(b"backend", model.backend.encode()),
        *(b"device", text_name(model.device.text)),
        *(b"tag", model.tag),
        *(b"batchsize", model.batchsize),
        *(b"minbatchsize", model.minbatchsize),
        *(b"inputs", [text_name(name) for name in model.inputs]),
        *(b"outputs", [text_name(name) for name in model.outputs]),
        *(b"minbatchtimeout", model.minbatchtimeout_ms),
    ]
    if request.blob:
        reply += (b"blob", _chunked(model.blob, chunk_size))
    return reply


def _chunked(blob: Blob, size: int) -> Reply:
    view = memoryview(blob)
    if len(blob) < size:
        return blob if isinstance(blob, bytes) else view
    return [view[start : start + size] for start in range(0, len(blob) + 1, size)]


def scan_reply(entries: Iterable[tuple[bytes, bytes]]) -> Reply:
    """AI._MODELSCAN and AI._SCRIPTSCAN: a (key, tag) pair per entry."""
    return [[key, tag] for key, tag in entries]


_BATCHING = (
    option("BATCHSIZE", "rows"),
    option("MINBATCHSIZE", "rows"),
    option("MINBATCHTIMEOUT", "milliseconds"),
)
_CHUNKS = several(Argument("chunk", "string"), token="BLOB")

_STORE = CommandSpec(
    name=b"AI.MODELSTORE",
    request=(ModelStore,),
    parse=parse_model_store,
    arity=-6,
    flags=WRITE,
    in_multi="may fail",
    arguments=(
        KEY,
        BACKEND,
        DEVICE,
        TAG,
        *_BATCHING,
        option("SIGNATURE", "signature"),
        Argument(
            "nodes",
            "block",
            optional=True,
            arguments=(
                counted("INPUTS", "input_count", NAME, optional=False),
                counted("OUTPUTS", "output_count", NAME, optional=False),
            ),
        ),
        _CHUNKS,
    ),
    summary="Builds a model and stores it.",
    since="1.2.0",
    group="models",
    complexity="O(N) where N is the size of the model, plus the framework's load time",
    examples=(
        ("AI.MODELSTORE net ONNX CPU TAG v7 BATCHSIZE 8 BLOB <bytes>", "+OK"),
        ("AI.MODELSTORE mul TF cpu:1 INPUTS 2 a b OUTPUTS 1 mul BLOB <bytes>", "+OK"),
    ),
)
ROWS = (
    _STORE,
    replace(
        _STORE,
        name=b"AI.MODELSET",
        parse=parse_model_set,
        arity=-4,
        arguments=(
            KEY,
            BACKEND,
            DEVICE,
            TAG,
            *_BATCHING,
            several(NAME, optional=True, token="INPUTS"),
            several(NAME, optional=True, token="OUTPUTS"),
            _CHUNKS,
        ),
        since="1.0.0",
        replaced_by="AI.MODELSTORE",
        examples=(
            ("AI.MODELSET mul TF CPU TAG v1 INPUTS a b OUTPUTS mul BLOB <bytes>", "+OK"),
            ("AI.MODELSET pt TORCH BLOB <bytes>", "-ERR Invalid DEVICE"),
        ),
    ),
    CommandSpec(
        name=b"AI.MODELGET",
        request=(ModelGet,),
        parse=key_and_parts(ModelGet, b"BLOB"),
        arity=-2,
        flags=READ,
        in_multi="takes part",
        arguments=(KEY, flag("META", optional=True), flag("BLOB", optional=True)),
        summary="Reads a model's description, its bytes, or both.",
        since="1.0.0",
        group="models",
        complexity="O(N) where N is the size of the model; O(1) with META only",
        examples=(
            (
                "AI.MODELGET net META",
                (
                    '["backend", "ONNX", "device", "CPU", "tag", "v7", "batchsize", :8, "minbatchsize", :0, '
                    '"inputs", ["x"], "outputs", ["y"], "minbatchtimeout", :0]'
                ),
            ),
            ("AI.MODELGET absent", "-ERR model key is empty"),
        ),
    ),
    CommandSpec(
        name=b"AI.MODELDEL",
        request=(ModelDel,),
        parse=key_alone(ModelDel),
        arity=2,
        flags=DELETE,
        in_multi="takes part",
        arguments=(KEY,),
        summary="Deletes a model.",
        since="1.0.0",
        group="models",
        complexity="O(1)",
        examples=(
            ("AI.MODELDEL net", "+OK"),
            ("AI.MODELDEL absent", "-ERR model key is empty"),
        ),
    ),
    CommandSpec(
        name=b"AI._MODELSCAN",
        request=(ModelScan,),
        parse=nothing(ModelScan),
        arity=1,
        flags=READ,
        first_key=0,
        keys=no_keys,
        in_multi="may fail",
        summary="Lists the keys and tags of all models.",
        since="1.0.0",
        group="models",
        complexity="O(N) where N is the number of keys in the database, in small steps",
        examples=(("AI._MODELSCAN", '[["net", "v7"], ["mul", ""]]'),),
    ),
)
