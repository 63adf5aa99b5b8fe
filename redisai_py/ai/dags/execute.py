"""AI.DAGEXECUTE, AI.DAGRUN and their read-only forms, reading from Redis: LOAD and the look-ups of models and scripts
take one round trip, PERSIST another. In between (`run`), only scripts touch Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

from redisai_py.ai.dags.prepared import BoundDag, PreparedDag
from redisai_py.ai.dags.run import DagRun
from redisai_py.ai.model_loading import Timeout, check_counts, keep_near, resolve
from redisai_py.ai.script_execute import record_script_read, script_entry
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.engine.dag import Version
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import QueueTimeout, WrongType
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import TIMEDOUT
from redisai_py.store import codec
from redisai_py.store.link import rehearse, transaction
from redisai_py.store.programs import MODEL_ID_FIELDS
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["HANDLERS", "commit", "execute_dag", "persist"]

Runnables = dict[int, LoadedModel | Script]
Rules = dict[int, Rule | None]


async def dag(request: Dag, turn: Turn) -> Any:
    """AI.DAGEXECUTE, AI.DAGRUN and their read-only forms."""
    return await execute_dag(BoundDag(PreparedDag(request, {}), request.load, request.persist), turn)


async def execute_dag(bound: BoundDag, turn: Turn) -> Any:
    """Execute a DAG, reading everything it needs from Redis.

    Raises: MissingKey, WrongType, CommandError for its LOAD keys, models and scripts; Conflict.
    """
    access = await turn.session.authenticated()
    if not bound.prepared.request.ifunchanged:
        return await _execute_on(bound, turn, access, None)
    # The loaded keys are watched from before they are read until the commit, which needs an exclusive connection.
    async with access.apart() as watching:
        loading = None
        await rehearse(watching)
        if bound.load:
            watch = watching.call(b"WATCH", *bound.load)
            loading = watching.call(b"MGET", *bound.load)
            await watch
        try:
            return await _execute_on(bound, turn, access, watching, loading)
        finally:
            for command in transaction():  # instead of UNWATCH, which needs another right; not awaited: the DAG is over
                watching.call(*command)


async def _execute_on(
    bound: BoundDag,
    turn: Turn,
    access: Access,
    watching: Any,
    loading: Awaitable[Any] | None = None,
) -> Any:
    values = bound.values()
    timeout = Timeout(bound.prepared.request.timeout_ms)
    try:
        runnables, rules = await _look_up(bound, values, turn, access, loading, timeout)
    except QueueTimeout:
        return TIMEDOUT
    finished: Pending[None] = Pending()
    done = partial(finished.settle, None)
    run = DagRun(bound.prepared, values, runnables, rules, turn, done, timeout.left_ms)
    run.start()
    try:
        await finished
    except QueueTimeout:
        return TIMEDOUT
    return await commit(bound, run, turn, watching)


async def commit(bound: BoundDag, run: DagRun, turn: Turn, watching: Any = None) -> Any:
    """The reply of a finished DAG, after its PERSIST keys are written."""
    replies = run.replies()
    if run.plan.succeeded and bound.persist and not turn.gone:
        return await persist(bound, replies, run.persisted(bound), turn, watching)
    return replies


async def persist(
    bound: BoundDag, replies: list[Any], pairs: list[tuple[bytes, Tensor | None]], turn: Turn, watching: Any = None
) -> Any:
    """The reply, after the PERSIST keys are written. pairs: see `put_outputs`."""
    request = bound.prepared.request
    access = await turn.session.authenticated()
    try:
        await access.store.put_outputs(pairs, ex_seconds=request.ex_seconds, keepttl=request.keepttl, watching=watching)
    except WrongType as error:
        replies.append(error)
    return replies


async def _look_up(
    bound: BoundDag,
    values: dict[Version, Any],
    turn: Turn,
    access: Access,
    loading: Awaitable[Any] | None,
    timeout: Timeout,
) -> tuple[Runnables, Rules]:
    """Put the LOADed tensors into `values`. Returns: the model or script of each operation that has one, looked up in
    the order of RedisAI's checks, and the rules of models. What was read is cached."""
    prepared, load, store, near = bound.prepared, bound.load, access.store, access.near
    keys: list[tuple[int, ModelExecute | ScriptExecute]] = [*prepared.models, *prepared.scripts]
    keys.sort(key=lambda item: item[0])
    commands = [_fields(op) for _, op in keys]
    known = {op.key: script_entry(op.key, turn) for _, op in prepared.scripts}
    if loading is None and load and not store.expects_large(load):
        loading, *fields = access.pipeline([(b"MGET", *load), *commands])
    else:
        fields = access.pipeline(commands)
        if loading is None and load:
            loading = store.large_values(load)
    loaded_values = await loading if loading is not None else []
    tensors = await store.decode_all(load, loaded_values)
    runnables: Runnables = {}
    rules: Rules = {}
    for (i, op), reply in zip(keys, fields, strict=True):
        if isinstance(op, ModelExecute):
            loaded, rules[i] = await resolve(op.key, reply, store, turn, timeout)
            runnables[i] = loaded
            check_counts(loaded.model, len(op.inputs), len(op.outputs))
        else:
            script = runnables[i] = await store.decode_script(op.key, reply)
            record_script_read(op.key, script, turn, known[op.key])
    values.update(zip(prepared.load_versions, tensors, strict=True))
    if near is not None:
        keep_near(near, load, loaded_values)
        for i, op in keys:
            runnable = runnables[i]
            if isinstance(runnable, LoadedModel):
                near.put_model(op.key, runnable.model.id, runnable.id, rules[i])
            else:
                near.put_script(op.key, runnable.id, runnable.identity)
    return runnables, rules


def _fields(op: ModelExecute | ScriptExecute) -> tuple[bytes, ...]:
    return (b"HMGET", op.key, *(MODEL_ID_FIELDS if isinstance(op, ModelExecute) else codec.SCRIPT_FIELDS))


HANDLERS: dict[type, Any] = {Dag: dag}
"""Request -> its handler."""
