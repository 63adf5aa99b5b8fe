"""The operations of a DAG: `DagRun` executes a prepared DAG on given values."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from redisai_py.ai.dags.prepared import BoundDag, PreparedDag
from redisai_py.ai.prediction_cache.lookup import Miss
from redisai_py.ai.script_execute import count_script, start_script
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.tensors import TensorGet, tensor_reply
from redisai_py.engine.dag import Outcome, Plan, Version
from redisai_py.engine.run import LoadedModel, Run
from redisai_py.engine.torchscript.jobs import ScriptRun
from redisai_py.errors import MissingKey, QueueTimeout, RedisAIError
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import NA, OK
from redisai_py.tensor import Tensor

__all__ = ["DagRun", "persisted", "replies_to"]


class DagRun:
    """One execution: call `start`; it calls `done(error)`; the error is QueueTimeout for a DAG that timed out.

    rules: cache rules, of the operations whose models have one.   timeout_ms: remaining TIMEOUT of the DAG.
    speculative: on cached values, so scripts may not call Redis or models.
    """

    __slots__ = (
        "_deadline",
        "_done",
        "_errors",
        "_ops",
        "_over",
        "_prepared",
        "_rules",
        "_runnables",
        "_runs",
        "_scripts",
        "_speculative",
        "_timed_out",
        "_turn",
        "_values",
        "plan",
    )

    def __init__(
        self,
        prepared: PreparedDag,
        values: dict[Version, Any],
        runnables: dict[int, LoadedModel | Script],
        rules: Mapping[int, Rule | None],
        turn: Turn,
        done: Callable[[BaseException | None], object],
        timeout_ms: int | None,
        *,
        speculative: bool = False,
    ) -> None:
        self._prepared = prepared
        self._ops = prepared.request.ops
        self._values = values
        self._runnables = runnables
        self._rules = rules
        self._turn = turn
        self._done = done
        self._over = False
        self._timed_out = False
        self._errors: dict[int, BaseException] = {}
        self._runs: dict[int, Run] = {}
        self._scripts: dict[int, ScriptRun] = {}
        self._speculative = speculative
        self._deadline: float | None = None
        if timeout_ms is not None:
            self._deadline = time.monotonic() + timeout_ms / 1000
        self.plan = Plan(prepared.graph)

    def start(self) -> None:
        """Start every operation whose inputs exist."""
        self._turn.cancelled_by(self._cancel)
        self._step()

    def _step(self) -> None:
        while not self._over and (ready := self.plan.ready()):
            for i in ready:
                self._start(i)
        if not self._over and self.plan.done:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._over = True
        # The callback usually refers to this object. Break the reference cycle: otherwise each DAG leaves 20 objects to
        # the garbage collector, which stops the whole process every few thousand DAGs to scan all objects.
        done = self._done
        del self._done
        done(error)

    def _start(self, i: int) -> None:
        if self._turn.gone:  # like a queued run whose client left: nobody wants the result
            self._ended(i, None, asyncio.CancelledError())
            return
        try:
            inputs = [self._input(version) for version in self.plan.graph.inputs[i]]
            timeout_ms = self._remaining_ms()
        except RedisAIError as error:
            self._ended(i, None, error)
            return
        op, runnable = self._ops[i], self._runnables[i]
        # Counted at the end, when it is known which operations count as run.
        if isinstance(runnable, Script):
            assert isinstance(op, ScriptExecute)
            speculative = self._speculative
            script_run = start_script(runnable, op, inputs, self._turn, timeout_ms, speculative=speculative)
            self._scripts[i] = script_run
            if script_run.done:
                self._ended(i, script_run.value, script_run.error)
            else:
                script_run.waiter = partial(self._run_ended, i)
            return
        try:
            assert isinstance(op, ModelExecute)
            run = self._runs[i] = self._run(op, runnable, self._rules.get(i), inputs, timeout_ms)
        except Miss as error:
            self._ended(i, None, error)
            return
        if run.done:
            self._ended(i, run.value, run.error)
        else:
            run.waiter = partial(self._run_ended, i)

    def _run(
        self, op: ModelExecute, loaded: LoadedModel, rule: Rule | None, inputs: list[Any], timeout_ms: int | None
    ) -> Run:
        """Raises Miss: CACHE ONLY of a model without a rule."""
        services, access = self._turn.services, self._turn.session.access
        on_gpu = loaded.model.device.kind == "GPU"
        if access is None or (rule is None and op.cache is not CacheUse.ONLY):
            return services.engine.run_model(loaded, inputs, timeout_ms, keep_on_device=on_gpu, counted=False)
        cached = services.predictions.cached_model(access, op.key, loaded, rule)
        return services.predictions.start(cached, inputs, op.cache, timeout_ms, keep_on_device=on_gpu, counted=False)

    def _run_ended(self, i: int, run: Pending[Any]) -> None:
        try:
            self._ended(i, run.value, run.error)
            self._step()
        except Exception as failure:  # a bug of ours, which affects only this client
            self._turn.broken(failure)

    def _ended(self, i: int, outputs: Any, error: BaseException | None) -> None:
        if self._over:
            if self._timed_out and self.plan.precedes_failure(i):
                self._count(i)
            return
        if error is None:
            for name, value in zip(self._ops[i].writes, outputs, strict=True):
                self._values[Version(name, i)] = value
            self.plan.finish(i)
            return
        self._errors[i] = error
        self.plan.fail(i)
        if isinstance(error, QueueTimeout):
            # Marked as over before the others are cancelled: they end immediately, and must not set the DAG's result.
            self._over = self._timed_out = True
            self.count()
            self._cancel()
            self._end(error)

    def _input(self, version: Version) -> Any:
        value = self._values.get(version)
        if value is None:  # an output that was not a tensor but a sequence or a map
            raise MissingKey("ERR INPUT key cannot be found in DAG")
        return value

    def _remaining_ms(self) -> int | None:
        if self._deadline is None:
            return None
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise QueueTimeout
        return math.ceil(left_s * 1000)  # rounded up, because TIMEOUT 1 never has a whole millisecond left

    def _cancel(self) -> None:
        for run in list(self._runs.values()):
            run.cancel_queued()
        for script_run in list(self._scripts.values()):
            self._turn.services.scripts.cancel_queued(script_run)

    def persisted(self, bound: BoundDag) -> list[tuple[bytes, Tensor | None]]:
        """The keys and values of PERSIST; None for an output that is not a tensor."""
        return persisted(bound, self._values)

    def replies(self) -> list[Any]:
        """One element per operation, as in a sequential run; those that are not `NA` count in AI.INFO."""
        self.count()
        if not self.plan.whole:
            return [self._reply(i, op) for i, op in enumerate(self._ops)]
        return replies_to(self._prepared, self._values)

    def count(self) -> None:
        """Count in AI.INFO the operations that a sequential run would have reached."""
        whole = self.plan.whole
        for i in (*self._runs, *self._scripts):
            if whole or self.plan.outcome(i) is not Outcome.NOT_RUN:
                self._count(i)

    def _count(self, i: int) -> None:
        services, runnable = self._turn.services, self._runnables[i]
        if isinstance(runnable, Script):
            count_script(runnable, self._scripts[i], services)
        else:
            services.engine.count(runnable, self._runs[i])

    def _reply(self, i: int, op: Any) -> Any:
        if type(op) is TensorGet:
            (version,) = self.plan.graph.inputs[i]
            return _reply_to_get(op, self._values.get(version) if self.plan.exists(version) else None)
        outcome = self.plan.outcome(i)
        if outcome is Outcome.OK:
            return OK
        return self._turn.failure(self._errors[i]) if outcome is Outcome.FAILED else NA


def persisted(bound: BoundDag, values: Mapping[Version, Any]) -> list[tuple[bytes, Tensor | None]]:
    """The keys and values of PERSIST; None for an output that is not a tensor."""
    tensors = [on_host(values.get(version)) for version in bound.prepared.persist_versions]
    return list(zip(bound.persist, tensors, strict=True))


def replies_to(prepared: PreparedDag, values: Mapping[Version, Any]) -> list[Any]:
    """One element per operation of a DAG whose models and scripts have succeeded."""
    replies: list[Any] = [OK] * len(prepared.request.ops)
    for i, op, version in prepared.gets:
        replies[i] = _reply_to_get(op, values.get(version))
    return replies


def _reply_to_get(op: TensorGet, value: Any) -> Any:
    tensor = value if type(value) is Tensor else on_host(value)
    return NA if tensor is None else tensor_reply(op, tensor.dtype, tensor.shape, tensor.data)


def on_host(value: Any) -> Tensor | None:
    """A value as a tensor in host memory, copied from the accelerator if necessary."""
    return value if value is None or isinstance(value, Tensor) else Tensor.from_numpy(value.numpy())
