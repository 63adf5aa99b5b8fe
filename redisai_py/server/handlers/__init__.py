"""What each AI command does: the one place where the store and the engine meet.

A handler takes a request and the client's connection and gives a reply value, or raises an error of the wire.
Look-ups happen in the order that the command's own description gives. `HANDLERS` maps request types to handlers; a
test holds it against the command table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redisai_py.commands import checks
from redisai_py.commands.admin import ConfigGet, ConfigSet, Info, LoadBackend
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.models import ModelDel, ModelGet, ModelScan, ModelStore
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.scripts import ScriptDel, ScriptGet, ScriptScan, ScriptStore
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.errors import CommandError
from redisai_py.server.handlers.admin import config_get, config_set, info, load_backend_command
from redisai_py.server.handlers.dags import dag
from redisai_py.server.handlers.models import (
    check_counts,
    model_del,
    model_execute,
    model_get,
    model_scan,
    model_store,
)
from redisai_py.server.handlers.scripts import script_del, script_execute, script_get, script_scan, script_store
from redisai_py.server.handlers.tensors import tensor_get, tensor_set
from redisai_py.store.store import Store

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["HANDLERS", "handle", "handle_error"]

Handler = Callable[[Any, "Connection"], Awaitable[Any]]

HANDLERS: dict[type, Handler] = {
    TensorSet: tensor_set,
    TensorGet: tensor_get,
    ModelStore: model_store,
    ModelGet: model_get,
    ModelDel: model_del,
    ModelScan: model_scan,
    ModelExecute: model_execute,
    ScriptStore: script_store,
    ScriptGet: script_get,
    ScriptDel: script_del,
    ScriptScan: script_scan,
    ScriptExecute: script_execute,
    Dag: dag,
    Info: info,
    ConfigGet: config_get,
    ConfigSet: config_set,
    LoadBackend: load_backend_command,
}


async def handle(request: Any, connection: Connection) -> Any:
    """Run a request's handler as the connection's client."""
    return await HANDLERS[type(request)](request, connection)


async def handle_error(error: CommandError, connection: Connection) -> Any:
    """Raise the error of a command that did not parse, unless a look-up that comes before it fails first."""
    if error.checks:
        store = (await connection.session.authenticated()).store
        for item in error.checks:
            await _check(item, store)
    raise error


async def _check(item: checks.Check, store: Store) -> None:
    if isinstance(item, checks.TensorOrAbsent):
        await store.check_tensor_or_absent(item.key)
    elif isinstance(item, checks.TensorExists):
        await store.tensor(item.key)
    elif isinstance(item, checks.ModelExists):
        await store.model(item.key)
    elif isinstance(item, checks.ModelCounts):
        check_counts(await store.model(item.key), item.inputs, item.outputs)
    else:
        await store.script(item.key)
