"""The operations of a DAG under way.

A `Template` is what a DAG is without the bytes of its blobs: parsed, planned and its names resolved once, since a
program sends the same DAG again and again with other data. `DagRun` executes one, whoever brings its values.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import Dag
from redisai_py.commands.models import ModelExecute
from redisai_py.commands.replies import tensor_reply
from redisai_py.commands.scripts import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.engine.dag import Graph, Kind, Operation, Outcome, Plan, Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.engine.scripts import ScriptRun
from redisai_py.errors import DeadlineExceeded, MissingKey, RedisAIError
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.resp_reply import NA, OK
from redisai_py.server.driver import drive
from redisai_py.server.handlers.scripts import count_script, run_script
from redisai_py.store.store import expiry_options
from redisai_py.tensor import DType, Tensor

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["DagRun", "Template", "template_of"]

_MAX_TEMPLATES = 2048
_LONGEST_TEMPLATE = 4096
_LOADED = -1
_templates: dict[tuple[Any, ...], Template] = {}


class Template:
    """A DAG without the bytes of its blobs."""

    __slots__ = ("blobs", "graph", "load_versions", "models", "options", "request", "scripts", "tensors")

    def __init__(self, request: Dag, blobs: dict[int, int]) -> None:
        self.request = request
        self.graph = Graph([_describe(op) for op in request.ops], request.load)
        self.models = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ModelExecute)]
        self.scripts = [(i, op) for i, op in enumerate(request.ops) if isinstance(op, ScriptExecute)]
        self.tensors = {Version(op.key, i): op.tensor for i, op in enumerate(request.ops) if isinstance(op, TensorSet)}
        """What TENSORSET operations set; those with a blob are filled in per command."""
        self.blobs = [
            (Version(op.key, i), op.tensor, at)
            for i, at in blobs.items()
            if isinstance(op := request.ops[i], TensorSet)
        ]
        """(version, tensor of the same dtype and shape, position of the blob among the command's words)."""
        self.load_versions = [Version(name, _LOADED) for name in request.load]
        self.options = expiry_options(request.ex_seconds, request.keepttl)

    def fill(self, argv: list[Any]) -> dict[Version, Any]:
        """The values that are there before the first operation, with this command's blobs."""
        values: dict[Version, Any] = dict(self.tensors)
        for version, like, at in self.blobs:
            values[version] = Tensor(like.dtype, like.shape, argv[at])
        return values


def template_of(spec: CommandSpec, argv: list[Any]) -> Template:
    """The template of a DAG command; a new one is parsed, with all that parsing checks. Raises: CommandError."""
    blobs, shape = _shape_of(argv)
    try:
        template = _templates.get(shape)
    except TypeError:  # a large word is a buffer, which cannot be hashed
        template, shape = None, ()
    if template is None:
        request: Dag = COMMANDS[spec.name].parse(argv)
        template = Template(request, _numeric_blobs(request, argv, blobs))
        # One with data of its own (VALUES, text, blobs that must be validated) is only good for these very words.
        if len(template.blobs) == len(blobs) and shape:
            if len(_templates) >= _MAX_TEMPLATES:
                _templates.clear()
            _templates[shape] = template
    return template


def _shape_of(argv: list[Any]) -> tuple[list[int], tuple[Any, ...]]:
    """Positions of the words behind BLOB, and all words with only the lengths of those; () if they are too long."""
    words = list(argv)
    blobs: list[int] = []
    at = -1
    try:
        while (at := words.index(b"BLOB", at + 1)) < len(words) - 1:
            blobs.append(at + 1)
            words[at + 1] = len(argv[at + 1])
    except ValueError:
        pass
    fixed = sum(map(len, argv)) - sum(words[at] for at in blobs)
    return blobs, tuple(words) if fixed <= _LONGEST_TEMPLATE else ()


def _numeric_blobs(request: Dag, argv: list[Any], blobs: list[int]) -> dict[int, int]:
    """TENSORSET operation -> position of its blob, for blobs whose bytes need no check. The objects themselves tell
    which belongs to which: the parser copies no blob."""
    positions = {id(argv[at]): at for at in blobs}
    found: dict[int, int] = {}
    for i, op in enumerate(request.ops):
        if isinstance(op, TensorSet) and op.tensor.dtype not in (DType.BOOL, DType.STRING):
            at = positions.get(id(op.tensor.data))
            if at is not None and argv[at] is op.tensor.data:
                found[i] = at
    return found


class DagRun:
    """One execution: `start`, then `done(error)` is called; the error is DeadlineExceeded for a DAG that timed out.

    timeout_ms: what is left of the DAG's TIMEOUT.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_done",
        "_errors",
        "_ops",
        "_over",
        "_runnables",
        "_runs",
        "_scripts",
        "_timed_out",
        "_values",
        "plan",
    )

    def __init__(
        self,
        template: Template,
        values: dict[Version, Any],
        runnables: dict[int, LoadedModel | Script],
        connection: Connection,
        done: Callable[[BaseException | None], object],
        timeout_ms: int | None,
    ) -> None:
        self._ops = template.request.ops
        self._values = values
        self._runnables = runnables
        self._connection = connection
        self._done = done
        self._over = False
        self._timed_out = False
        self._errors: dict[int, BaseException] = {}
        self._runs: dict[int, Run] = {}
        self._scripts: dict[int, ScriptRun] = {}
        self._deadline: float | None = None
        if timeout_ms is not None:
            self._deadline = time.monotonic() + timeout_ms / 1000
        self.plan = Plan(template.graph)

    def start(self) -> None:
        """Start every operation that may."""
        self._connection.cancel_run = self._cancel
        self._step()

    def _step(self) -> None:
        while not self._over and (ready := self.plan.ready()):
            for i in ready:
                self._start(i)
        if not self._over and self.plan.done:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._over = True
        self._connection.cancel_run = None
        # Who is told refers to this object, most often: no reference cycle, or each DAG leaves the garbage collector 20
        # objects, and every few thousand DAGs make it stop the whole process to look at all there is.
        done = self._done
        del self._done
        done(error)

    def _start(self, i: int) -> None:
        if self._connection.gone:  # as a queued run of a client that left: nobody wants the result
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
            started = partial(self._scripts.__setitem__, i)
            running = run_script(runnable, op, inputs, self._connection, timeout_ms, started, counted=False)
            drive(running, partial(self._ended_then_step, i))
            return
        run = self._connection.server.engine.run_model(
            runnable, inputs, timeout_ms, keep_on_device=runnable.model.device.kind == "GPU", counted=False
        )
        self._runs[i] = run
        if run.done:
            self._ended(i, run.value, run.error)
        else:
            run.waiter = partial(self._model_ended, i)

    def _model_ended(self, i: int, run: Pending[Any]) -> None:
        self._ended_then_step(i, run.value, run.error)

    def _ended_then_step(self, i: int, outputs: Any, error: BaseException | None) -> None:
        self._ended(i, outputs, error)
        self._step()

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
        if isinstance(error, DeadlineExceeded) and str(error) == "TIMEDOUT":
            # Over before the others are cancelled: they end at once, and must not be taken for the DAG's result.
            self._over = self._timed_out = True
            self.count()
            self._cancel()
            self._end(error)

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
        for script_run in list(self._scripts.values()):
            self._connection.server.scripts.cancel_queued(script_run)

    def last(self, name: bytes) -> Tensor | None:
        """The value that PERSIST saves; None for an output that was no tensor."""
        return _on_host(self._values.get(self.plan.graph.last[name]))

    def replies(self) -> list[Any]:
        """One element per operation, as in the sequential run; those that are not `NA` count in AI.INFO."""
        self.count()
        return [self._reply(i, op) for i, op in enumerate(self._ops)]

    def count(self) -> None:
        """Count in AI.INFO the operations that the sequential run would have reached."""
        for i in (*self._runs, *self._scripts):
            if self.plan.outcome(i) is not Outcome.NOT_RUN:
                self._count(i)

    def _count(self, i: int) -> None:
        server, runnable = self._connection.server, self._runnables[i]
        if isinstance(runnable, Script):
            count_script(runnable, self._scripts[i], server)
        else:
            server.engine.count(runnable, self._runs[i])

    def _reply(self, i: int, op: Any) -> Any:
        if type(op) is TensorGet:
            (version,) = self.plan.graph.inputs[i]
            tensor = _on_host(self._values.get(version)) if self.plan.exists(version) else None
            return NA if tensor is None else tensor_reply(op, tensor.dtype, tensor.shape, tensor.data)
        outcome = self.plan.outcome(i)
        if outcome is Outcome.OK:
            return OK
        return self._connection.failure(self._errors[i]) if outcome is Outcome.FAILED else NA


def _on_host(value: Any) -> Tensor | None:
    """A value as a tensor in host memory; one that stayed on an accelerator is copied from there."""
    return value if value is None or isinstance(value, Tensor) else Tensor.from_numpy(value.numpy())


def _describe(op: Any) -> Operation:
    kind = Kind.MODEL if isinstance(op, ModelExecute) else Kind.SCRIPT if isinstance(op, ScriptExecute) else Kind.TENSOR
    return Operation(kind, op.reads, op.writes)
