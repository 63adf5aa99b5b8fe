"""The AI commands: the one place where the store and the engine meet.

A handler takes a request and the client's connection and gives a reply value, or raises an error of the wire.
Each module maps its requests to its handlers; look-ups happen in the order that the command's own description gives.
A test holds `HANDLERS`, the whole map, against the command table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redisai_py.ai import admin, cache, dags, models, scripts, tensors
from redisai_py.ai.models import check_counts
from redisai_py.commands import checks
from redisai_py.errors import CommandError
from redisai_py.store.store import Store

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["HANDLERS", "handle", "handle_error"]

Handler = Callable[[Any, "Connection"], Awaitable[Any]]

HANDLERS: dict[type, Handler] = {
    **tensors.HANDLERS,
    **models.HANDLERS,
    **scripts.HANDLERS,
    **dags.HANDLERS,
    **cache.HANDLERS,
    **admin.HANDLERS,
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
