"""A DAG command: runs immediately if all that it reads is cached (rules: `store.writer`); otherwise `execute`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from redisai_py.ai.dags.execute import commit, execute_dag, persist
from redisai_py.ai.dags.prepared import BoundDag
from redisai_py.ai.dags.run import DagRun, persisted, replies_to
from redisai_py.ai.model_execute import NearRun
from redisai_py.ai.model_loading import bypasses_cache, near_tensors, resolve_near
from redisai_py.ai.script_execute import resolve_near_script
from redisai_py.ai.speculation import Speculation, encode_tensors
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.engine.dag import Version
from redisai_py.engine.run import LoadedModel, Value
from redisai_py.engine.stats import samples
from redisai_py.errors import RedisAIError, UpstreamLost, WrongType
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Script
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import LARGE_SEGMENT, TIMEDOUT
from redisai_py.resp.templates import BlobTemplate, Burst, Command
from redisai_py.store.cache import NearCache
from redisai_py.store.writer import Used, Writer
from redisai_py.tensor import Buffer, Tensor

__all__ = ["ExecuteDag"]

Runnables = dict[int, LoadedModel | Script]
Rules = dict[int, Rule | None]


class ExecuteDag:
    """A DAG command."""

    __slots__ = ("_bound",)
    is_ai = True

    def __init__(self, bound: BoundDag) -> None:
        self._bound = bound

    def start(self, turn: Turn, command: Command) -> bool:
        return _start(self._bound, turn)

    def template(self, command: Command) -> BlobTemplate | None:
        """The template of commands that differ from this one only in their data."""
        return self._bound.template(command.frame, ExecuteLike)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The keys it reads."""
        prepared = self._bound.prepared
        models, scripts = prepared.models, prepared.scripts
        return (*self._bound.load, *(op.key for _, op in models), *(op.key for _, op in scripts))

    def execute(self, turn: Turn) -> Coroutine[Any, Any, Any]:
        """The whole command, for a client with no other work in progress."""
        return execute_dag(self._bound, turn)


class ExecuteLike:
    """The action of a DAG command that differs from an earlier one of its client only in its data."""

    __slots__ = ("_bound",)
    is_ai = True

    def __init__(self, bound: BoundDag) -> None:
        self._bound = bound

    def start(self, turn: Turn, burst: Burst) -> bool:
        return _start(self._bound.with_blob(burst.words[0]), turn)


def _start(bound: BoundDag, turn: Turn) -> bool:
    if turn.busy or turn.in_flight or turn.relayed:
        return False
    access = turn.session.access
    writer = access.writer if access is not None else None
    if writer is not None and writer.near is not None:
        if bound.prepared.one_run:
            started = _NearTrip(bound, turn, writer, [], bound.prepared.options).start()
        else:
            started = _NearDag(bound, turn, writer).start()
        if started:
            return True
    return turn.run_alone(execute_dag(bound, turn))


# -- on cached values --------------------------------------------------------------------------------------------------


class _NearDag(Speculation):
    """One DAG in progress."""

    __slots__ = ("_bound", "_run", "_writer", "options", "turn", "used", "writes")

    def __init__(self, bound: BoundDag, turn: Turn, writer: Writer) -> None:
        self._bound = bound
        self.turn = turn
        self._writer = writer
        self.used: Used = []
        self.writes: list[tuple[bytes, bytes]] = []
        self.options = bound.prepared.options

    def start(self) -> bool:
        """Start. False, without any effect, if something it reads is not cached."""
        prepared, near = self._bound.prepared, self._writer.near
        assert near is not None
        runnables: Runnables = {}
        rules: Rules = {}
        for i, op in prepared.models:
            loaded = resolve_near(self.turn, near, op, self.used)
            if loaded is None:
                return False
            runnables[i] = loaded
            rule = self.used[-1][1].rule
            if rule is not None:
                rules[i] = rule
        for i, script_op in prepared.scripts:
            script = resolve_near_script(self.turn, near, script_op, self.used)
            if script is None:
                return False
            runnables[i] = script
        tensors = near_tensors(near, self._bound.load, self.used)
        if tensors is None:
            return False
        values = self._bound.values()
        values.update(zip(prepared.load_versions, tensors, strict=True))
        self.turn.begin()
        timeout_ms = prepared.request.timeout_ms
        turn, done = self.turn, self._done
        self._run = DagRun(prepared, values, runnables, rules, turn, done, timeout_ms, speculative=True)
        self._run.start()
        return True

    def _done(self, error: BaseException | None) -> None:
        """The operations have ended, or their time is over. Their results count if the used values still hold."""
        if self.turn.gone:
            self._run.count()  # it was computed, although nobody wants it
            return
        if error is not None:
            self.turn.finish(TIMEDOUT)
            return
        if self._bound.persist and self._run.plan.succeeded:
            self.writes = encode_tensors(self._run.persisted(self._bound))
        if self.used or self.writes:
            self._writer.add(self)
        else:
            self.committed()

    def committed(self) -> None:
        if self.writes or not (self._bound.persist and self._run.plan.succeeded):
            self.turn.finish(self._run.replies())
        else:
            self.turn.continue_with(commit(self._bound, self._run, self.turn))

    def retry(self) -> Coroutine[Any, Any, Any]:
        return execute_dag(self._bound, self.turn)

    def refusal(self, error: RedisAIError) -> Any:
        if isinstance(error, UpstreamLost):
            self._run.count()  # it was computed all the same
            return error
        return [*self._run.replies(), error] if isinstance(error, WrongType) else None


class _NearTrip(NearRun):
    """A DAG that runs one model, as most do: it needs no plan. _known: its outputs come from a cached prediction."""

    __slots__ = ("_known", "_values")

    def start(self) -> bool:
        """Start. False, without any effect, if something it reads is not cached."""
        bound, turn, writer, used = self._command, self.turn, self._writer, self.used
        self._known = False
        prepared, near = bound.prepared, writer.near
        assert near is not None
        ((i, op),) = prepared.models
        model = resolve_near(turn, near, op, used)
        if model is None or not bypasses_cache(turn, op, used[0][1], model):
            if self._start_known(i, op, near):
                return True
            return model is not None and _NearDag(bound, turn, writer).start()  # handles cache rules
        inputs = self._inputs(i, near)
        if inputs is None:
            return False
        self.run(model, inputs, prepared.request.timeout_ms)
        return True

    def _inputs(self, i: int, near: NearCache) -> list[Any] | None:
        """The inputs of its run; None if one is not cached."""
        bound = self._command
        values = self._values = bound.values()
        if bound.load:
            tensors = near_tensors(near, bound.load, self.used)
            if tensors is None:
                return None
            values.update(zip(bound.prepared.load_versions, tensors, strict=True))
        return [values[version] for version in bound.prepared.graph.inputs[i]]

    def _start_known(self, i: int, op: ModelExecute, near: NearCache) -> bool:
        """End with a cached prediction, regardless of the duration of a run. False, without any effect, if there is
        none.
        """
        turn = self.turn
        entry, access = near.entries.get(op.key), turn.session.access
        if entry is None or entry.rule is None or op.cache is not CacheUse.RULE or access is None:
            return False
        loaded = turn.services.engine.loaded(entry.identity or "")
        if loaded is None or loaded.arity != (len(op.inputs), len(op.outputs)):
            return False
        self.used[:] = [(op.key, entry)]
        inputs = self._inputs(i, near)
        predictions = turn.services.predictions
        cached = predictions.cached_model(access, op.key, loaded, entry.rule)
        if inputs is None or predictions.is_bypassed(cached, inputs):
            return False
        known = predictions.get_local(cached, inputs)
        if known is None:
            return False
        self._known = True
        self.take(list(known.outputs))
        self.end(loaded)
        return True

    def take(self, outputs: list[Value]) -> None:
        self.value = outputs
        self._values.update(zip(self._command.prepared.outputs, outputs, strict=True))
        if self._command.persist:
            self.writes = encode_tensors(persisted(self._command, self._values))

    def committed(self) -> None:
        turn, prepared = self.turn, self._command.prepared
        if self._known:
            self._model.count_call(samples(self.value or ()))
        if self._command.persist and not self.writes and self.error is None:
            pairs = persisted(self._command, self._values)
            turn.continue_with(persist(self._command, self._replies(), pairs, turn))
            return
        reply = self._plain_reply(prepared.reply) if prepared.reply is not None and self.error is None else None
        if reply is not None:
            turn.finish_with(reply)
        else:
            turn.finish(self._replies())

    def _plain_reply(self, around: list[tuple[Version | None, bytes]]) -> bytes | None:
        """The reply's bytes, if its tensors exist and are small, as for most DAGs."""
        values = self._values
        parts: list[Buffer] = []
        for version, before in around:
            if version is None:
                parts.append(before)
                break
            tensor = values[version]
            if type(tensor) is not Tensor or len(tensor.data) >= LARGE_SEGMENT:
                return None
            parts += (before, b"$%d\r\n" % len(tensor.data), tensor.data)
        return b"".join(parts)

    def _replies(self) -> list[Any]:
        """One element per operation. Outputs of a failed run do not exist."""
        prepared = self._command.prepared
        replies = replies_to(prepared, self._values)
        if self.error is not None:
            replies[prepared.models[0][0]] = self.turn.failure(self.error)
        return replies

    def retry(self) -> Coroutine[Any, Any, Any]:
        return execute_dag(self._command, self.turn)

    def refusal(self, error: RedisAIError) -> Any:
        if isinstance(error, UpstreamLost):
            return error
        return [*self._replies(), error] if isinstance(error, WrongType) else None
