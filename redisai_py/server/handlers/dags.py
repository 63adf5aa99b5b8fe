"""AI.DAG*: one snapshot in, operations in parallel where they may, all or nothing out.

The plan (`engine.dag`) says what may start and what the client is told; here the operations run and values pass
between them in memory. LOAD and the look-ups of models and scripts are one round trip, PERSIST is another, and what
happens in between touches Redis only if a script does so itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from redisai_py.commands.dags import Dag
from redisai_py.commands.models import ModelExecute
from redisai_py.commands.replies import tensor_reply
from redisai_py.commands.scripts import ScriptExecute
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.engine.dag import Kind, Operation, Outcome, Plan, Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.errors import DeadlineExceeded, MissingKey, RedisAIError, WrongType
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.resp_reply import NA, OK, TIMEDOUT
from redisai_py.server.driver import drive
from redisai_py.server.handlers.models import check_counts, load_model
from redisai_py.server.handlers.scripts import SCRIPT_MISSING, run_script
from redisai_py.store import codec
from redisai_py.store.store import Store
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.server.access import Access
    from redisai_py.server.connection import Connection

__all__ = ["dag"]


async def dag(request: Dag, connection: Connection) -> Any:
    """AI.DAGEXECUTE, AI.DAGRUN and their read-only forms."""
    access = await connection.session.authenticated()
    if not request.ifunchanged:
        return await _execute(request, connection, access, None)
    # What was loaded is watched from before it is read until the commit, which needs a connection to itself.
    async with access.dedicated() as watching:
        watch = watching.call(b"WATCH", *request.load) if request.load else None
        values = watching.call(b"MGET", *request.load) if request.load else None
        if watch is not None:
            await watch
        try:
            return await _execute(request, connection, access, watching, values)
        finally:
            await watching.call(b"UNWATCH")


async def _execute(
    request: Dag, connection: Connection, access: Access, watching: Any, values: Awaitable[Any] | None = None
) -> Any:
    loaded, runnables = await _look_up(request, connection, access, values)
    run = _DagRun(request, connection, loaded, runnables)
    try:
        await run.finished()
    except DeadlineExceeded:
        return TIMEDOUT
    replies = run.replies()
    if run.plan.succeeded and request.persist and not connection.gone:
        items = [(key, tensor) for key in request.persist if (tensor := run.last(key)) is not None]
        try:
            await access.store.put_tensors(
                items, ex_seconds=request.ex_seconds, keepttl=request.keepttl, watching=watching
            )
        except WrongType as error:
            replies.append(error)
    return replies


async def _look_up(
    request: Dag, connection: Connection, access: Access, values: Awaitable[Any] | None
) -> tuple[dict[bytes, Tensor], dict[int, LoadedModel | Script]]:
    """LOADed tensors by name, and the model or script of each operation that has one, in the order of RedisAI's
    checks.
    """
    store = access.store
    keys = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, (ModelExecute, ScriptExecute))]
    commands = [_fields(op) for _, op in keys]
    if values is None and request.load and not store.expects_large(request.load):
        values, *fields = access.pipeline([(b"MGET", *request.load), *commands])
    else:
        fields = access.pipeline(commands)
        if values is None and request.load:
            values = store.large_values(request.load)
    tensors = await store.decode_all(request.load, await values) if values is not None else []
    runnables: dict[int, LoadedModel | Script] = {}
    for (i, op), reply in zip(keys, fields, strict=True):
        runnables[i] = await _runnable(op, reply, store, connection)
    return dict(zip(request.load, tensors, strict=True)), runnables


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


class _DagRun:
    """The operations of one DAG under way."""

    def __init__(
        self,
        request: Dag,
        connection: Connection,
        loaded: dict[bytes, Tensor],
        runnables: dict[int, LoadedModel | Script],
    ) -> None:
        self._ops = request.ops
        self._connection = connection
        self._runnables = runnables
        self._values: dict[Version, Any] = {Version(name, -1): tensor for name, tensor in loaded.items()}
        self._errors: dict[int, BaseException] = {}
        self._deadline = None if not request.timeout_ms else time.monotonic() + request.timeout_ms / 1000
        self._done: Pending[None] = Pending()
        self._runs: dict[int, Run] = {}
        self.plan = Plan([_describe(op) for op in request.ops], loaded)
        for i, op in enumerate(request.ops):
            if isinstance(op, TensorSet):
                self._values[Version(op.key, i)] = op.tensor

    async def finished(self) -> None:
        """Run all operations. Raises DeadlineExceeded if the DAG's TIMEOUT passed while one of them was queued."""
        self._connection.cancel_run = self._cancel
        try:
            self._step()
            await self._done
        finally:
            self._connection.cancel_run = None

    def _step(self) -> None:
        while ready := self.plan.ready():
            for i in ready:
                self._start(i)
        if self.plan.done:
            self._done.resolve(None)

    def _start(self, i: int) -> None:
        try:
            inputs = [self._input(version) for version in self.plan.inputs(i)]
            timeout_ms = self._remaining_ms()
        except RedisAIError as error:
            self._ended(i, None, error)
            return
        drive(self._run(i, inputs, timeout_ms), lambda outputs, error: self._ended(i, outputs, error, step=True))

    def _run(self, i: int, inputs: list[Any], timeout_ms: int | None) -> Coroutine[Any, Any, Any]:
        op, runnable = self._ops[i], self._runnables[i]
        if isinstance(runnable, Script):
            assert isinstance(op, ScriptExecute)
            return run_script(runnable, op, inputs, self._connection, timeout_ms)
        return self._run_model(i, runnable, inputs, timeout_ms)

    async def _run_model(self, i: int, loaded: LoadedModel, inputs: list[Any], timeout_ms: int | None) -> list[Any]:
        # Counted at the end, when it is known which operations count as run.
        run = self._connection.server.engine.run_model(loaded, inputs, timeout_ms, keep_on_device=True, counted=False)
        self._runs[i] = run
        return await run

    def _ended(self, i: int, outputs: Any, error: BaseException | None, *, step: bool = False) -> None:
        if isinstance(error, DeadlineExceeded) and str(error) == "TIMEDOUT":
            self._cancel()
            self._done.fail(error)
        if error is None:
            for name, value in zip(self._ops[i].writes, outputs, strict=True):
                self._values[Version(name, i)] = value
            self.plan.finish(i)
        else:
            self._errors[i] = error
            self.plan.fail(i)
        if step and not self._done.done:
            self._step()

    def _input(self, version: Version) -> Any:
        value = self._values.get(version)
        if value is None:  # an output that was no tensor (a sequence or a map)
            raise MissingKey("ERR INPUT key cannot be found in DAG")
        return value

    def _remaining_ms(self) -> int | None:
        if self._deadline is None:
            return None
        left = int((self._deadline - time.monotonic()) * 1000)
        if left <= 0:
            raise DeadlineExceeded
        return left

    def _cancel(self) -> None:
        for run in list(self._runs.values()):
            run.cancel_queued()

    def last(self, name: bytes) -> Tensor | None:
        """The value that PERSIST saves; None for an output that was no tensor."""
        return _on_host(self._values.get(self.plan.last(name)))

    def replies(self) -> list[Any]:
        """One element per operation, as in the sequential run; those that are not `NA` count in AI.INFO."""
        for i, run in self._runs.items():
            loaded = self._runnables[i]
            if self.plan.outcome(i) is not Outcome.NOT_RUN and isinstance(loaded, LoadedModel):
                self._connection.server.engine.count(loaded, run)
        return [self._reply(i, op) for i, op in enumerate(self._ops)]

    def _reply(self, i: int, op: Any) -> Any:
        if isinstance(op, TensorGet):
            (version,) = self.plan.inputs(i)
            tensor = _on_host(self._values.get(version)) if self.plan.exists(version) else None
            if tensor is None:
                return NA
            return tensor_reply(op, tensor.dtype, tensor.shape, tensor.data)
        outcome = self.plan.outcome(i)
        if outcome is Outcome.OK:
            return OK
        return self._failure(i) if outcome is Outcome.FAILED else NA

    def _failure(self, i: int) -> RedisAIError:
        return self._connection.failure(self._errors[i])


def _on_host(value: Any) -> Tensor | None:
    """A value as a tensor in host memory; one that stayed on an accelerator is copied from there."""
    return value if value is None or isinstance(value, Tensor) else Tensor.from_numpy(value.numpy())


def _describe(op: Any) -> Operation:
    kind = Kind.MODEL if isinstance(op, ModelExecute) else Kind.SCRIPT if isinstance(op, ScriptExecute) else Kind.TENSOR
    return Operation(kind, op.reads, op.writes)
