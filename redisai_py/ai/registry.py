"""The object that executes an AI command, and the handler of a request.

A handler takes a request and the client's turn and returns a reply value, or raises a wire error. Look-ups happen in
the order that the command's description gives. Most commands run their handler exclusively; those that may finish in
one step have their own object. A test compares `HANDLERS` with the command table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redisai_py.ai import admin, model_execute, models, script_execute, scripts, tensor_gets, tensor_sets
from redisai_py.ai.dags import execute
from redisai_py.ai.dags.near import ExecuteDag
from redisai_py.ai.dags.prepared import bind
from redisai_py.ai.model_execute import ExecuteModel
from redisai_py.ai.model_loading import check_counts
from redisai_py.ai.multi import InMulti, failing, raising
from redisai_py.ai.prediction_cache import commands as cache
from redisai_py.ai.script_execute import ExecuteScript
from redisai_py.ai.tensor_gets import GetTensor
from redisai_py.ai.tensor_sets import SetTensor
from redisai_py.commands import checks
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.errors import CommandError, WrongArity
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.templates import Command
from redisai_py.store.store import Store

__all__ = ["HANDLERS", "ai_action"]

Work = Coroutine[Any, Any, Any]
Handler = Callable[[Any, Turn], Awaitable[Any]]
Translation = Callable[[Any, Turn], InMulti]

HANDLERS: dict[type, Handler] = {
    **tensor_sets.HANDLERS,
    **tensor_gets.HANDLERS,
    **models.HANDLERS,
    **model_execute.HANDLERS,
    **scripts.HANDLERS,
    **script_execute.HANDLERS,
    **execute.HANDLERS,
    **cache.HANDLERS,
    **admin.HANDLERS,
}
_IN_MULTI: dict[type, Translation] = {**models.IN_MULTI, **scripts.IN_MULTI, **admin.IN_MULTI}


def ai_action(spec: CommandSpec, command: Command) -> Any:
    """The object that executes a command; see `dispatch.Action`."""
    try:
        if Dag in spec.request:
            return ExecuteDag(bind(spec, command.argv))
        request = spec.parse(command.argv)
    except CommandError as error:
        return Failing(error)
    kind = _KINDS.get(type(request))
    return Handled(request, spec) if kind is None else kind(request)


_KINDS: dict[type, Callable[[Any], Any]] = {
    TensorSet: SetTensor,
    TensorGet: GetTensor,
    ModelExecute: ExecuteModel,
    ScriptExecute: ExecuteScript,
}


class _Exclusive:
    """An AI command that runs alone, in any number of steps."""

    __slots__ = ()
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def start(self, turn: Turn, command: Command) -> bool:
        return turn.idle and turn.run_alone(self.execute(turn))

    async def execute(self, turn: Turn) -> Any:
        """The whole command, for a client with no other work in progress."""
        raise NotImplementedError


class Handled(_Exclusive):
    """An AI command that runs its handler."""

    __slots__ = ("_spec", "request")

    def __init__(self, request: Any, spec: CommandSpec) -> None:
        self.request = request
        self._spec = spec

    async def execute(self, turn: Turn) -> Any:
        return await HANDLERS[type(self.request)](self.request, turn)

    async def in_multi(self, turn: Turn) -> InMulti:
        """The plain commands that stand for it in a transaction."""
        translate = _IN_MULTI.get(type(self.request))
        if translate is None:
            name = self._spec.name.decode().upper()
            return raising(CommandError(f"ERR {name} cannot take part in a transaction with redisai_py"))
        return translate(self.request, turn)


class Failing(_Exclusive):
    """An AI command with a syntax error. Look-ups that precede the error in the command's order may fail first."""

    __slots__ = ("_error",)

    def __init__(self, error: CommandError) -> None:
        self._error = error

    async def execute(self, turn: Turn) -> Any:
        """Raise the error, unless a look-up that precedes it fails first."""
        if self._error.checks:
            store = (await turn.session.authenticated()).store
            for item in self._error.checks:
                await _check(item, store)
        raise self._error

    async def in_multi(self, turn: Turn) -> InMulti:
        """See `Handled`. Raises: WrongArity: Redis does not even queue a command with a wrong number of arguments."""
        if isinstance(self._error, WrongArity):
            raise self._error
        return failing(self._error)


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
