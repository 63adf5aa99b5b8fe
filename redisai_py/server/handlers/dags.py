"""AI.DAG*: one snapshot in, operations in parallel where they may, all or nothing out.

LOAD and the look-ups of models and scripts are one round trip, PERSIST is another, and what happens in between
(`dag_run`) touches Redis only if a script does so itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from redisai_py.commands.dags import Dag
from redisai_py.commands.models import ModelExecute
from redisai_py.commands.scripts import ScriptExecute
from redisai_py.engine.dag import Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import DeadlineExceeded, WrongType
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.resp_reply import TIMEDOUT
from redisai_py.server.handlers.dag_run import DagRun, Template
from redisai_py.server.handlers.models import check_counts, kept, load_model
from redisai_py.server.handlers.scripts import SCRIPT_MISSING
from redisai_py.store import codec
from redisai_py.store.store import Store

if TYPE_CHECKING:
    from redisai_py.server.access import Access
    from redisai_py.server.connection import Connection

__all__ = ["commit", "dag", "execute_template"]

Runnables = dict[int, LoadedModel | Script]


async def dag(request: Dag, connection: Connection) -> Any:
    """AI.DAGEXECUTE, AI.DAGRUN and their read-only forms."""
    template = Template(request, {})
    return await execute_template(template, dict(template.tensors), connection)


async def execute_template(template: Template, values: dict[Version, Any], connection: Connection) -> Any:
    """Execute a DAG, reading from Redis what it needs.

    Args:   values: what its TENSORSET operations set.
    Raises: MissingKey, WrongType, CommandError for its LOAD keys, models and scripts; Conflict.
    """
    request = template.request
    access = await connection.session.authenticated()
    if not request.ifunchanged:
        return await _execute(template, values, connection, access, None)
    # What was loaded is watched from before it is read until the commit, which needs a connection to itself.
    async with access.watching() as watching:
        loading = None
        if request.load:
            watch = watching.call(b"WATCH", *request.load)
            loading = watching.call(b"MGET", *request.load)
            await watch
        try:
            return await _execute(template, values, connection, access, watching, loading)
        finally:
            await watching.call(b"UNWATCH")


async def _execute(
    template: Template,
    values: dict[Version, Any],
    connection: Connection,
    access: Access,
    watching: Any,
    loading: Awaitable[Any] | None = None,
) -> Any:
    runnables = await _look_up(template, values, connection, access, loading)
    finished: Pending[None] = Pending()

    def done(error: BaseException | None) -> None:
        if error is None:
            finished.resolve(None)
        else:
            finished.fail(error)

    run = DagRun(template, values, runnables, connection, done)
    run.start()
    try:
        await finished
    except DeadlineExceeded:
        return TIMEDOUT
    return await commit(template.request, run, connection, watching)


async def commit(request: Dag, run: DagRun, connection: Connection, watching: Any = None) -> Any:
    """The reply of a DAG that has run, after its PERSIST keys are written."""
    replies = run.replies()
    if run.plan.succeeded and request.persist and not connection.gone:
        items = [(key, tensor) for key in request.persist if (tensor := run.last(key)) is not None]
        access = await connection.session.authenticated()
        try:
            await access.store.put_tensors(
                items, ex_seconds=request.ex_seconds, keepttl=request.keepttl, watching=watching
            )
        except WrongType as error:
            replies.append(error)
    return replies


async def _look_up(
    template: Template,
    values: dict[Version, Any],
    connection: Connection,
    access: Access,
    loading: Awaitable[Any] | None,
) -> Runnables:
    """Put the LOADed tensors into `values`; the model or script of each operation that has one, in the order of
    RedisAI's checks. What was read is kept near if nobody changes it meanwhile."""
    request, store, near = template.request, access.store, access.near
    keys: list[tuple[int, ModelExecute | ScriptExecute]] = [*template.models, *template.scripts]
    keys.sort(key=lambda item: item[0])
    reading = near.begin([*request.load, *(op.key for _, op in template.models)]) if near is not None else None
    fresh: set[bytes] = set()
    try:
        sent_at = time.monotonic()
        commands = [_fields(op) for _, op in keys]
        left = [(b"PTTL", op.key) for _, op in template.models] if near is not None else []
        if loading is None and request.load and not store.expects_large(request.load):
            left += [(b"PTTL", name) for name in request.load] if near is not None else []
            loading, *rest = access.pipeline([(b"MGET", *request.load), *commands, *left])
        else:
            rest = access.pipeline([*commands, *left])
            if loading is None and request.load:
                loading = store.large_values(request.load)
        fields, expiries = rest[: len(commands)], rest[len(commands) :]
        tensors = await store.decode_all(request.load, await loading) if loading is not None else []
        runnables: Runnables = {}
        for (i, op), reply in zip(keys, fields, strict=True):
            runnables[i] = await _runnable(op, reply, store, connection)
        lifetimes = [await expiry for expiry in expiries]
    finally:
        if near is not None and reading is not None:
            fresh = near.end(reading)
    values.update(zip(template.load_versions, tensors, strict=True))
    if near is not None and near is access.near:
        for (i, op), lifetime_ms in zip(template.models, lifetimes, strict=False):
            loaded = runnables[i]
            if op.key in fresh and isinstance(loaded, LoadedModel):
                near.put_read(op.key, loaded.id, 0, sent_at, lifetime_ms)
        for key, tensor, lifetime_ms in zip(request.load, tensors, lifetimes[len(template.models) :], strict=False):
            if key in fresh:
                near.put_read(key, kept(tensor), len(tensor.data), sent_at, lifetime_ms)
    return runnables


def _fields(op: ModelExecute | ScriptExecute) -> tuple[bytes, ...]:
    return (b"HMGET", op.key, *((b"kind", b"id") if isinstance(op, ModelExecute) else codec.SCRIPT_FIELDS))


async def _runnable(
    op: ModelExecute | ScriptExecute, fields: Awaitable[Any], store: Store, connection: Connection
) -> LoadedModel | Script:
    if isinstance(op, ModelExecute):
        loaded = await load_model(op.key, fields, store, connection)
        check_counts(loaded.model, len(op.inputs), len(op.outputs))
        return loaded
    return await store.decode_script(op.key, fields, SCRIPT_MISSING)
