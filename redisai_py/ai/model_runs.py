"""AI.MODELEXECUTE with all inputs in the near cache: the run starts at once, without a coroutine.

`store.writer` writes the outputs if Redis still holds the values used: one round trip in all. If a value has changed,
the command runs again from Redis. All other cases (a miss, a large value, a user without scripts, a model with long
runs) go through `ai.models`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redisai_py.ai import handle
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.engine.merging import Value
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.engine.settle import samples
from redisai_py.errors import QueueTimeout, RedisAIError, UpstreamLost, WrongType
from redisai_py.resp.replies import OK, TIMEDOUT
from redisai_py.resp.templates import Command
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.codec import encode_header
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.store.writer import GroupCommit, Used
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["ExecuteModel", "encode_tensors", "near_model", "near_tensors"]

_OK = b"+OK\r\n"
_SHORT_S = 0.002
"""A near value may be out of date, and then the run was for nothing: a model whose runs take longer reads first."""


def encode_tensors(items: Iterable[tuple[bytes, Any]]) -> list[tuple[bytes, bytes]]:
    """Keys and strings to write in a commit; empty if they do not all go into one: large ones, or no tensors."""
    writes: list[tuple[bytes, bytes]] = []
    size = 0
    for key, tensor in items:
        if type(tensor) is not Tensor:
            return []
        data = tensor.data
        size += len(data)
        if size >= LARGE_VALUE:
            return []
        writes.append((key, b"".join((encode_header(tensor), data))))
    return writes


def _encode_outputs(keys: Sequence[bytes], outputs: Sequence[Value]) -> list[tuple[bytes, bytes]]:
    """`encode_tensors` of a model's outputs; most models have one."""
    if len(outputs) == 1:
        only = outputs[0]
        if type(only) is Tensor and len(only.data) < LARGE_VALUE:
            return [(keys[0], b"".join((encode_header(only), only.data)))]
    return encode_tensors(zip(keys, outputs, strict=True))


class ExecuteModel:
    """AI.MODELEXECUTE, AI.MODELRUN."""

    __slots__ = ("_may_be_near", "request")
    is_ai = True

    def __init__(self, request: ModelExecute) -> None:
        self.request = request
        self._may_be_near = request.cache in (CacheUse.RULE, CacheUse.NO)

    def start(self, connection: Connection, command: Command) -> bool:
        session = connection.session
        if connection.busy or connection.in_flight or session.relayed:
            return False
        access = session.access
        commits = access.commits if access is not None else None
        if commits is not None and commits.usable and self._may_be_near:
            model = commits.near.entries.get(self.request.key)
            if model is not None and model.rule is not None and not _passes_by(connection, self.request, model):
                ended = _start_ruled(self.request, connection, commits, model)
                if ended is not None:
                    return ended
            used: Used = []
            loaded = near_model(connection, commits.near, self.request, used)
            inputs = near_tensors(commits.near, self.request.inputs, used) if loaded is not None else None
            if loaded is not None and inputs is not None:
                _Execution(self.request, connection, commits, used, loaded).start(inputs)
                return True
        return connection.run_alone(handle(self.request, connection))

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Keys that it reads."""
        return (self.request.key, *self.request.inputs)

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """All of it, for a client that has nothing else under way."""
        return handle(self.request, connection)


def _passes_by(connection: Connection, request: ModelExecute, model: Entry) -> bool:
    """Whether a model with a cache rule runs as if it had none."""
    if request.cache is CacheUse.NO:
        return True
    server = connection.server
    loaded = server.engine.look_at(model.identity) if model.identity is not None else None
    if loaded is None or model.rule is None:
        return False
    return server.runs.predictions.passes_by(connection.session.identity.database, request.key, loaded, model.rule)


def _start_ruled(request: ModelExecute, connection: Connection, commits: GroupCommit, model: Entry) -> bool | None:
    """Start a run of a model with a cache rule: it ends at once with a prediction that is at hand, whatever a run would
    take, or goes by way of Redis. None: it is to run as if there were no rule.
    """
    access, predictions = connection.session.access, connection.server.runs.predictions
    used: Used = [(request.key, model)]
    inputs = near_tensors(commits.near, request.inputs, used)
    loaded = connection.server.engine.loaded(model.identity or "")
    if access is not None and inputs is not None and loaded is not None:
        ruled = predictions.ruled(access, request.key, loaded, model.rule)
        if predictions.stands_aside(ruled, inputs):
            ruled.ledger.bypassed += 1
            return None
        near = predictions.at_hand(ruled, inputs) if len(request.outputs) == len(loaded.outputs) else None
        if near is not None and len(near.outputs) == len(request.outputs):
            _Hit(request, connection, commits, used, loaded).end(list(near.outputs))
            return True
    return connection.run_alone(handle(request, connection))


def near_model(connection: Connection, near: NearCache, request: ModelExecute, used: Used) -> LoadedModel | None:
    """The model if its id is near, it is loaded, fits the request, and runs quickly and at once; then it is added to
    `used`.
    """
    entry = near.entries.get(request.key)
    if entry is None or entry.identity is None:
        return None
    loaded = connection.server.engine.loaded(entry.identity)
    if loaded is None or not 0 < loaded.short_run_s < _SHORT_S or loaded.model.minbatchsize > 1:
        return None
    if loaded.arity != (len(request.inputs), len(request.outputs)):
        return None
    used.append((request.key, entry))
    return loaded


def near_tensors(near: NearCache, keys: Sequence[bytes], used: Used) -> list[Tensor] | None:
    """The tensors if all are near, which are then added to `used`."""
    entries = near.entries
    tensors: list[Tensor] = []
    for key in keys:
        entry = entries.get(key)
        if entry is None or (tensor := entry.kept or entry.tensor()) is None:
            return None
        used.append((key, entry))
        tensors.append(tensor)
    return tensors


class _Execution(Run):
    """One command under way: a `Member` of a commit, and a run as soon as it is queued."""

    __slots__ = ("_commits", "_model", "_request", "connection", "used", "writes")
    options: tuple[bytes, ...] = ()

    def __init__(
        self,
        request: ModelExecute,
        connection: Connection,
        commits: GroupCommit,
        used: Used,
        model: LoadedModel,
    ) -> None:
        self._request = request
        self.connection = connection
        self._commits = commits
        self._model = model
        self.used = used
        self.writes: list[tuple[bytes, bytes]] = []

    def start(self, inputs: list[Tensor]) -> None:
        """Run; the command then ends by itself."""
        connection, commits, model = self.connection, self._commits, self._model
        runs = connection.server.runs
        connection.busy = True
        if not model.unfinished and commits.idle and (ended := runs.now(model, inputs)) is not None:
            self.error = None
            self.value, self.ran_s = ended
            self.writes = _encode_outputs(self._request.outputs, self.value)
            commits.commit(self)
            return
        Run.__init__(self, model, inputs)  # super() costs more
        connection.cancel_run = self.cancel_queued
        runs.later(self, model, self._request.timeout_ms)

    def resolve(self, value: list[Value]) -> None:
        """The run has ended: its outcome, an error too, counts if what it used still holds."""
        if self.done:
            return
        self.done = True
        self.value = value
        connection = self.connection
        connection.cancel_run = None
        if not connection.gone:
            self.writes = _encode_outputs(self._request.outputs, value)
            self._commits.add(self)

    def fail(self, error: BaseException) -> None:
        if self.done:
            return
        self.done = True
        self.error = error
        connection = self.connection
        connection.cancel_run = None
        if connection.gone:
            return
        if isinstance(error, QueueTimeout):
            connection.finish_alone(TIMEDOUT)
        else:
            self._commits.add(self)

    def committed(self) -> None:
        connection = self.connection
        connection.busy = False
        if self.writes:
            connection.session.write_at_once(_OK)
            if connection.backlog or connection.eof or connection.server.draining:
                connection.after_work()
        elif connection.gone:
            return
        elif self.error is not None:
            connection.finish_alone(connection.failure(self.error))
        else:
            connection.run_alone(self._put(self.value))

    async def _put(self, outputs: Any) -> Any:
        access = await self.connection.session.authenticated()
        pairs = zip(self._request.outputs, outputs, strict=True)
        await access.store.put_outputs(pairs)
        return OK

    def stale(self) -> None:
        connection = self.connection
        connection.busy = False
        if self.ran_s is not None:
            connection.server.engine.discount(self._model, self.ran_s, self.value)
        if not connection.gone:
            connection.run_alone(handle(self._request, connection))

    def refused(self, error: RedisAIError) -> None:
        if isinstance(error, UpstreamLost | WrongType):
            self.connection.finish_alone(error)
        else:
            self.stale()  # the store's way finds the words


class _Hit(_Execution):
    """One command whose outputs are known: no run."""

    __slots__ = ()

    def end(self, outputs: list[Value]) -> None:
        """Write the outputs; the command then ends by itself."""
        self.connection.busy = True
        self.done = True
        self.error = self.ran_s = None
        self.value = outputs
        self.writes = _encode_outputs(self._request.outputs, outputs)
        if self._commits.idle:
            self._commits.commit(self)
        else:
            self._commits.add(self)

    def committed(self) -> None:
        self._model.stats.succeeded(1, 0.0, samples(self.value or ()))
        super().committed()
