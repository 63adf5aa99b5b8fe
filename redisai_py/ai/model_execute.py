"""AI.MODELEXECUTE and AI.MODELRUN: on cached values without a coroutine, or from Redis. MULTI refuses them.

If all inputs are in the near cache, the run starts immediately, and `store.writer` writes the outputs if Redis still
holds the used values: one round trip in all. If a value has changed, the command runs again from Redis. The handler
deals with cache misses, large values, users without scripts, and models with long runs.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from redisai_py.ai.model_loading import (
    Timeout,
    bypasses_cache,
    check_counts,
    keep_near,
    near_run,
    near_tensors,
    resolve,
)
from redisai_py.ai.speculation import Speculation, StoresOutputs, encode_tensors
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.engine.run import LoadedModel, Run, Value
from redisai_py.engine.stats import samples
from redisai_py.errors import QueueTimeout
from redisai_py.frontdoor.turn import Turn
from redisai_py.predictions.local import LocalEntry
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import OK, TIMEDOUT
from redisai_py.resp.templates import Command
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.codec import HEADERS
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.store.writer import Used, Writer
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["HANDLERS", "ExecuteModel", "NearRun"]


class ExecuteModel:
    """AI.MODELEXECUTE, AI.MODELRUN."""

    __slots__ = ("_may_be_near", "request")
    is_ai = True

    def __init__(self, request: ModelExecute) -> None:
        self.request = request
        self._may_be_near = request.cache in (CacheUse.RULE, CacheUse.NO)

    def start(self, turn: Turn, command: Command) -> bool:
        if turn.busy or turn.in_flight or turn.relayed:
            return False
        access = turn.session.access
        writer = access.writer if access is not None else None
        if writer is not None and (near := writer.near) is not None and self._may_be_near:
            model = near.entries.get(self.request.key)
            if model is not None and model.rule is not None and not _bypasses_cache(turn, self.request, model):
                ended = _start_ruled(self.request, turn, writer, near, model)
                if ended is not None:
                    return ended
            used: Used = []
            found = near_run(turn, near, self.request, used)
            if found is not None:
                loaded, inputs = found
                _Execution(self.request, turn, writer, used).run(loaded, inputs, self.request.timeout_ms)
                return True
        return turn.run_alone(model_execute(self.request, turn))

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The keys it reads."""
        return (self.request.key, *self.request.inputs)

    def execute(self, turn: Turn) -> Coroutine[Any, Any, Any]:
        """The whole command, for a client with no other work in progress."""
        return model_execute(self.request, turn)


# -- on cached values --------------------------------------------------------------------------------------------------


class NearRun(Run, Speculation):
    """A command in progress whose whole computation is one run of a model: a `Member` of a commit, and a run once it is
    queued.

    Args: command: the request, or the DAG.   used: cached values that it was computed from.   options: of SET.
    """

    __slots__ = ("_command", "_model", "_writer", "options", "turn", "used", "writes")

    def __init__(self, command: Any, turn: Turn, writer: Writer, used: Used, options: tuple[bytes, ...] = ()) -> None:
        self._command = command
        self.turn = turn
        self._writer = writer
        self.used = used
        self.writes: list[tuple[bytes, bytes]] = []
        self.options = options

    def take(self, outputs: list[Value]) -> None:
        """Keep the outputs, and encode what the commit writes of them."""
        raise NotImplementedError

    def run(self, model: LoadedModel, inputs: list[Tensor], timeout_ms: int | None) -> None:
        """Run; the command then finishes by itself."""
        turn, writer = self.turn, self._writer
        self._model = model
        engine = turn.services.engine
        if not model.unfinished and writer.idle and (ended := engine.run_inline(model, inputs)) is not None:
            turn.begin()
            self.error = None
            outputs, self.ran_s = ended
            self.take(outputs)
            writer.commit(self)
            return
        self.prepare(model, inputs)
        turn.begin(self.cancel_queued)
        engine.queue(self, model, timeout_ms)

    def end(self, model: LoadedModel) -> None:
        """Commit known outputs, which were taken already, without a run."""
        self._model = model
        self.turn.begin()
        self.done = True
        self.error = self.ran_s = None
        if self._writer.idle:
            self._writer.commit(self)
        else:
            self._writer.add(self)

    def resolve(self, value: list[Value]) -> None:
        """The run has ended: its outcome, including an error, counts if the used values still hold."""
        if self.done:
            return
        self.done = True
        if not self.turn.gone:
            self.take(value)
            self._writer.add(self)

    def fail(self, error: BaseException) -> None:
        if self.done:
            return
        self.done = True
        self.error = error
        if self.turn.gone:
            return
        if isinstance(error, QueueTimeout):
            self.turn.finish(TIMEDOUT)
        else:
            self._writer.add(self)

    def stale(self) -> None:
        if self.ran_s is not None:
            self.turn.services.engine.discount(self._model, self.ran_s, self.value)
        Speculation.stale(self)


class _Execution(StoresOutputs, NearRun):
    """AI.MODELEXECUTE in progress."""

    __slots__ = ()

    @property
    def output_keys(self) -> Sequence[bytes]:
        outputs: Sequence[bytes] = self._command.outputs
        return outputs

    def take(self, outputs: list[Value]) -> None:
        self.value = outputs
        self.writes = _encode_outputs(self._command.outputs, outputs)

    def retry(self) -> Coroutine[Any, Any, Any]:
        return model_execute(self._command, self.turn)


def _encode_outputs(keys: Sequence[bytes], outputs: Sequence[Value]) -> list[tuple[bytes, bytes]]:
    """`encode_tensors` for a model's outputs; most models have one."""
    if len(outputs) == 1:
        only = outputs[0]
        if type(only) is Tensor and len(only.data) < LARGE_VALUE and not only.dtype.is_string:
            return [(keys[0], b"".join((HEADERS[only.dtype, only.shape], only.data)))]
    return encode_tensors(zip(keys, outputs, strict=True))


class _Hit(_Execution):
    """A command whose outputs are known, so it needs no run."""

    __slots__ = ()

    def take_cached(self, entry: LocalEntry) -> None:
        """`take` the outputs of a cached prediction, encoded once for all hits."""
        self.value = list(entry.outputs)
        if entry.size < LARGE_VALUE:
            self.writes = list(zip(self._command.outputs, entry.strings(), strict=True))
        else:
            self.writes = _encode_outputs(self._command.outputs, self.value)

    def committed(self) -> None:
        self._model.count_call(samples(self.value or ()))
        super().committed()


def _bypasses_cache(turn: Turn, request: ModelExecute, model: Entry) -> bool:
    """Whether a model with a cache rule runs as if it had none."""
    loaded = turn.services.engine.loaded(model.identity) if model.identity is not None else None
    return loaded is not None and bypasses_cache(turn, request, model, loaded)


def _start_ruled(request: ModelExecute, turn: Turn, writer: Writer, near: NearCache, model: Entry) -> bool | None:
    """Start a run of a model with a cache rule: it ends immediately with a cached prediction, regardless of the
    duration of a run, or goes through Redis. None: run as if there were no rule.
    """
    access, predictions = turn.session.access, turn.services.predictions
    used: Used = [(request.key, model)]
    inputs = near_tensors(near, request.inputs, used)
    loaded = turn.services.engine.loaded(model.identity or "")
    if access is not None and inputs is not None and loaded is not None:
        cached = predictions.cached_model(access, request.key, loaded, model.rule)
        if predictions.is_bypassed(cached, inputs):
            cached.record.bypassed += 1
            return None
        fits = len(request.outputs) == len(loaded.outputs)
        known = predictions.get_local(cached, inputs, used[1:]) if fits else None
        if known is not None and len(known.outputs) == len(request.outputs):
            hit = _Hit(request, turn, writer, used)
            hit.take_cached(known)
            hit.end(loaded)
            return True
    return turn.run_alone(model_execute(request, turn))


# -- from Redis --------------------------------------------------------------------------------------------------------


async def model_execute(request: ModelExecute, turn: Turn) -> Any:
    """AI.MODELEXECUTE, AI.MODELRUN: the model's id and the inputs in one round trip, the run, then the outputs."""
    access = await turn.session.authenticated()
    timeout = Timeout(request.timeout_ms)
    try:
        loaded, rule, inputs = await _read(request, turn, access, timeout)
        if turn.gone:  # for example while the model was loading: nobody wants the result
            return OK
        services = turn.services
        if rule is None and request.cache is not CacheUse.ONLY:
            run = services.engine.run_model(loaded, inputs, timeout.left_ms)
        else:
            cached = services.predictions.cached_model(access, request.key, loaded, rule)
            run = services.predictions.start(cached, inputs, request.cache, timeout.left_ms)
        turn.cancelled_by(run.cancel_queued)
        outputs = await run
    except QueueTimeout:
        return TIMEDOUT
    if not turn.gone:
        await access.store.put_outputs(zip(request.outputs, outputs, strict=True))  # type: ignore[arg-type]  # none kept on a device
    return OK


async def _read(
    request: ModelExecute, turn: Turn, access: Access, timeout: Timeout
) -> tuple[LoadedModel, Rule | None, list[Tensor]]:
    """The model, its cache rule, and the inputs, in one round trip; caches them."""
    store, near = access.store, access.near
    ids, values_of_inputs = store.model_and_tensors(request.key, request.inputs)
    loaded, rule = await resolve(request.key, ids, store, turn, timeout)
    check_counts(loaded.model, len(request.inputs), len(request.outputs))
    values = await values_of_inputs()
    inputs = await store.decode_all(request.inputs, values)
    if near is not None:
        near.put_model(request.key, loaded.model.id, loaded.id, rule)
        keep_near(near, request.inputs, values)
    return loaded, rule, inputs


HANDLERS: dict[type, Any] = {ModelExecute: model_execute}
"""Request -> its handler."""
