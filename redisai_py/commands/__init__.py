"""AI commands as data: words to frozen requests (`parse`), requests to words (`encode`), and the table of them all.

Pure: no I/O, no clock, no Redis. The server parses, the clients encode, and both mean the same dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redisai_py.commands._args import Argv, show_word
from redisai_py.commands.admin import (
    ConfigGet,
    ConfigSet,
    Info,
    LoadBackend,
    encode_config_get,
    encode_config_set,
    encode_info,
    encode_load_backend,
)
from redisai_py.commands.dags import Dag, encode_dag
from redisai_py.commands.models import (
    ModelDel,
    ModelExecute,
    ModelGet,
    ModelScan,
    ModelStore,
    encode_model_del,
    encode_model_execute,
    encode_model_get,
    encode_model_scan,
    encode_model_store,
)
from redisai_py.commands.scripts import (
    ScriptDel,
    ScriptExecute,
    ScriptGet,
    ScriptScan,
    ScriptStore,
    encode_script_del,
    encode_script_execute,
    encode_script_get,
    encode_script_scan,
    encode_script_store,
)
from redisai_py.commands.spec import Argument, CommandSpec
from redisai_py.commands.table import COMMANDS
from redisai_py.commands.tensors import TensorGet, TensorSet, encode_tensor_get, encode_tensor_set
from redisai_py.errors import CommandError
from redisai_py.tensor import Buffer

__all__ = ["COMMANDS", "Argument", "CommandSpec", "Request", "encode", "lookup", "parse"]

Request = (
    TensorSet
    | TensorGet
    | ModelStore
    | ModelGet
    | ModelDel
    | ModelScan
    | ModelExecute
    | ScriptStore
    | ScriptGet
    | ScriptDel
    | ScriptScan
    | ScriptExecute
    | Dag
    | Info
    | ConfigGet
    | ConfigSet
    | LoadBackend
)

_LONGEST_NAME = 32

_ENCODERS: dict[type, Callable[[Any], list[Buffer]]] = {
    TensorSet: encode_tensor_set,
    TensorGet: encode_tensor_get,
    ModelStore: encode_model_store,
    ModelGet: encode_model_get,
    ModelDel: encode_model_del,
    ModelScan: encode_model_scan,
    ModelExecute: encode_model_execute,
    ScriptStore: encode_script_store,
    ScriptGet: encode_script_get,
    ScriptDel: encode_script_del,
    ScriptScan: encode_script_scan,
    ScriptExecute: encode_script_execute,
    Dag: encode_dag,
    Info: encode_info,
    ConfigGet: encode_config_get,
    ConfigSet: encode_config_set,
    LoadBackend: encode_load_backend,
}


def lookup(name: Buffer) -> CommandSpec | None:
    """The row of a command's name in any case, or None if it is not one of ours."""
    if type(name) is bytes and (spec := COMMANDS.get(name)) is not None:
        return spec
    return COMMANDS.get(bytes(name).upper()) if len(name) <= _LONGEST_NAME else None


def parse(argv: Argv) -> Request:
    """The request that a command's words make.

    Args:    argv: at least one word, the name as typed first; a large argument may be a memoryview or bytearray.
    Raises:  CommandError; its `checks` are the look-ups that come before it.
    Copies:  no blob: the request keeps the caller's buffer.
    """
    spec = lookup(argv[0])
    if spec is None:
        beginning = "".join(f"'{show_word(word)}' " for word in argv[1:5])
        raise CommandError(f"ERR unknown command '{show_word(argv[0])}', with args beginning with: {beginning}")
    request: Request = spec.parse(argv)
    return request


def encode(request: Request) -> list[Buffer]:
    """The words of a request, the name first: `parse(encode(request)) == request`.

    Raises: ValueError: a DAG with an argument that is exactly `|>`.   Copies: no blob.
    """
    return _ENCODERS[type(request)](request)
