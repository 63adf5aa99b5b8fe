"""The arguments of every command, as COMMAND DOCS shows them; syntax lines and redis-cli's hints come from these."""

from __future__ import annotations

from redisai_py.commands.spec import Argument

__all__ = [
    "CONFIG",
    "DAG",
    "DAG_RO",
    "INFO",
    "KEY",
    "MODEL_EXECUTE",
    "MODEL_GET",
    "MODEL_RUN",
    "MODEL_SET",
    "MODEL_STORE",
    "NOTHING",
    "SCRIPT_EXECUTE",
    "SCRIPT_GET",
    "SCRIPT_RUN",
    "SCRIPT_SET",
    "SCRIPT_STORE",
    "TENSOR_GET",
    "TENSOR_SET",
]


def _flag(token: str, optional: bool = False) -> Argument:
    return Argument(token.lower(), "pure-token", token, optional=optional)


def _option(token: str, name: str, integer: bool = True) -> Argument:
    return Argument(name, "integer" if integer else "string", token, optional=True)


def _counted(token: str, count: str, item: Argument, optional: bool = True) -> Argument:
    return Argument(
        token.lower(), "block", token, optional=optional, arguments=(Argument(count, "integer"), _several(item))
    )


def _several(item: Argument, optional: bool = False, token: str = "") -> Argument:
    return Argument(item.name, item.type, token, optional=optional, multiple=True)


_KEY = Argument("key", "key")
_MODEL = Argument("model", "key")
_SCRIPT = Argument("script", "key")
_TENSOR = Argument("tensor", "key")
_NAME = Argument("name", "string")
_DEVICE = Argument("device", "string")
_FUNCTION = Argument("function", "string")
_BACKEND = Argument("backend", "oneof", arguments=(_flag("TF"), _flag("TFLITE"), _flag("TORCH"), _flag("ONNX")))
_TAG = _option("TAG", "tag", integer=False)
_BATCHING = (
    _option("BATCHSIZE", "rows"),
    _option("MINBATCHSIZE", "rows"),
    _option("MINBATCHTIMEOUT", "milliseconds"),
)
_TIMEOUT = _option("TIMEOUT", "milliseconds")
_CHUNKS = _several(Argument("chunk", "string"), token="BLOB")
_INPUT_NAMES = _several(_NAME, optional=True, token="INPUTS")
_OUTPUT_NAMES = _several(_NAME, optional=True, token="OUTPUTS")
_INPUTS = _several(_TENSOR, token="INPUTS")
_OUTPUTS = _several(_TENSOR, token="OUTPUTS")
_SOURCE = Argument("text", "string", "SOURCE")

NOTHING: tuple[Argument, ...] = ()
KEY = (_KEY,)

TENSOR_SET = (
    _KEY,
    Argument("dtype", "string"),
    Argument("dim", "integer", optional=True, multiple=True),
    Argument(
        "data",
        "oneof",
        optional=True,
        arguments=(Argument("data", "string", "BLOB"), Argument("value", "string", "VALUES", multiple=True)),
    ),
)
TENSOR_GET = (
    _KEY,
    _flag("META", optional=True),
    Argument("form", "oneof", optional=True, arguments=(_flag("BLOB"), _flag("VALUES"))),
)

MODEL_STORE = (
    _KEY,
    _BACKEND,
    _DEVICE,
    _TAG,
    *_BATCHING,
    Argument(
        "nodes",
        "block",
        optional=True,
        arguments=(
            _counted("INPUTS", "input_count", _NAME, optional=False),
            _counted("OUTPUTS", "output_count", _NAME, optional=False),
        ),
    ),
    _CHUNKS,
)
MODEL_SET = (_KEY, _BACKEND, _DEVICE, _TAG, *_BATCHING, _INPUT_NAMES, _OUTPUT_NAMES, _CHUNKS)
MODEL_GET = (_KEY, _flag("META", optional=True), _flag("BLOB", optional=True))
MODEL_EXECUTE = (
    _MODEL,
    _counted("INPUTS", "input_count", _TENSOR, optional=False),
    _counted("OUTPUTS", "output_count", _TENSOR, optional=False),
    _TIMEOUT,
)
MODEL_RUN = (_MODEL, _TIMEOUT, _INPUTS, _OUTPUTS)

SCRIPT_STORE = (
    _KEY,
    _DEVICE,
    _TAG,
    _counted("ENTRY_POINTS", "entry_point_count", _NAME, optional=False),
    _SOURCE,
)
SCRIPT_SET = (_KEY, _DEVICE, _TAG, _SOURCE)
SCRIPT_GET = (_KEY, _flag("META", optional=True), _flag("SOURCE", optional=True))
SCRIPT_EXECUTE = (
    _SCRIPT,
    _FUNCTION,
    _counted("KEYS", "key_count", _KEY),
    _counted("INPUTS", "input_count", _TENSOR),
    _counted("ARGS", "arg_count", Argument("arg", "string")),
    _counted("OUTPUTS", "output_count", _TENSOR),
    _TIMEOUT,
)
SCRIPT_RUN = (
    _SCRIPT,
    _FUNCTION,
    _TIMEOUT,
    _several(_TENSOR, optional=True, token="INPUTS"),
    _several(_TENSOR, optional=True, token="OUTPUTS"),
)

_OPERATION = Argument("operation", "string", "|>", multiple=True, multiple_token=True)
_ROUTING = _option("ROUTING", "tag", integer=False)
_LOAD = _counted("LOAD", "key_count", _KEY)
DAG = (
    _LOAD,
    _counted("PERSIST", "key_count", _KEY),
    _ROUTING,
    _TIMEOUT,
    Argument("expiry", "oneof", optional=True, arguments=(Argument("seconds", "integer", "EX"), _flag("KEEPTTL"))),
    _flag("IFUNCHANGED", optional=True),
    _OPERATION,
)
DAG_RO = (_LOAD, _ROUTING, _TIMEOUT, _OPERATION)

INFO = (
    _KEY,
    Argument("option", "oneof", optional=True, arguments=(_flag("RESETSTAT"), _flag("FULL"))),
)
CONFIG = (
    Argument(
        "subcommand",
        "oneof",
        arguments=(
            Argument("name", "string", "GET"),
            Argument(
                "loadbackend",
                "block",
                "LOADBACKEND",
                arguments=(Argument("backend", "string"), Argument("path", "string")),
            ),
            Argument("path", "string", "BACKENDSPATH"),
            Argument("bytes", "integer", "MODEL_CHUNK_SIZE"),
        ),
    ),
)
