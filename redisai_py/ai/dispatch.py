"""From a command's words to what is done with it: `understand` gives an object that knows how to start.

Meanings hold nothing of a client, so one is shared by every connection that sends the same bytes again (`Frames`).
AI commands of one round trip start here, on the shared stream, without a coroutine: they are the hot path, and every
step counts. Other AI commands go to the handlers of `ai`, all other commands to `frontdoor.redis_commands`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from redisai_py.ai import handle, handle_error
from redisai_py.ai.dag_speculation import ExecuteDag
from redisai_py.ai.dag_templates import bind
from redisai_py.ai.model_runs import ExecuteModel
from redisai_py.ai.tensor_gets import GetTensor, GetTensors
from redisai_py.ai.tensor_sets import SetTensor, SetTensors
from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import TensorGet, TensorSet
from redisai_py.errors import CommandError
from redisai_py.frontdoor.redis_commands import Relayed, RelayedRow, understand_plain
from redisai_py.resp.templates import Command, Frames

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["Meaning", "joint_meaning", "understand"]

_LONGEST_NAME = 32
_MOST_NAMES = 1000
_ROW = RelayedRow()
_MOST_KEPT_BYTES = 1024
"""A tensor without data is zeros, as many as its short command says: too many to be kept for the next such command."""


class Meaning(Protocol):
    """What to do with a command."""

    is_ai: bool

    def start(self, connection: Connection, command: Command) -> bool:
        """Start it; False if it must wait until other work of this client is done."""


def understand(command: Command, frames: Frames) -> Meaning:
    """The meaning of a command not seen before; remembered by its bytes where that is sound."""
    name = command.argv[0]
    upper = bytes(name).upper() if len(name) <= _LONGEST_NAME else b""
    spec = COMMANDS.get(upper)
    if spec is None:
        command.meaning = understand_plain(upper)
        return command.meaning  # type: ignore[no-any-return]
    meaning = command.meaning = _understand_ai(spec, command)
    if command.frame:
        if type(meaning) is SetTensor and not meaning.large and SetTensors.has_form(meaning.request, command):
            # Not the frame: the next one has other data, and this one's must not be kept here.
            frames.name_form(command, partial(SetTensors, meaning.request.tensor))
        elif type(meaning) is GetTensor and GetTensors.has_form(meaning.request):
            frames.name_form(command, partial(GetTensors, meaning.request), payload=False)
            frames.remember(command)
        elif type(meaning) is not SetTensor or len(meaning.request.tensor.data) <= _MOST_KEPT_BYTES:
            frames.remember(command)
    return meaning


class _JointMeanings(dict[bytes, RelayedRow | None]):
    """Worked out when first asked for, for each way of writing a name."""

    def __missing__(self, name: bytes) -> RelayedRow | None:
        if len(name) > _LONGEST_NAME:
            return None
        upper = name.upper()
        plain = understand_plain(upper) if upper not in COMMANDS else None
        meaning = _ROW if type(plain) is Relayed and plain.changes_nothing else None
        if len(self) < _MOST_NAMES:
            self[name] = meaning
        return meaning


joint_meaning = _JointMeanings().__getitem__
"""The meaning that commands of a name have together, None if one of that name must be looked at by itself."""


def _understand_ai(spec: CommandSpec, command: Command) -> Meaning:
    try:
        if Dag in spec.request:
            return ExecuteDag(bind(spec, command.argv))
        request = spec.parse(command.argv)
    except CommandError as error:
        return Failing(error)
    if type(request) is TensorSet:
        return SetTensor(request)
    if type(request) is TensorGet:
        return GetTensor(request)
    if type(request) is ModelExecute:
        return ExecuteModel(request)
    return Handled(request)


class Handled:
    """An AI command with a handler. reads: keys that it reads, if it also writes."""

    __slots__ = ("reads", "request")
    is_ai = True

    def __init__(self, request: Any) -> None:
        self.request = request
        self.reads = (request.key, *request.inputs) if type(request) is ScriptExecute else ()

    def start(self, connection: Connection, command: Command) -> bool:
        return connection.idle and connection.run_alone(handle(self.request, connection))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """All of it, for a client that has nothing else under way."""
        return handle(self.request, connection)


class Failing:
    """An AI command with a syntax error; the look-ups that come before it in the command's order may fail first."""

    __slots__ = ("error",)
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def __init__(self, error: CommandError) -> None:
        self.error = error

    def start(self, connection: Connection, command: Command) -> bool:
        return connection.idle and connection.run_alone(handle_error(self.error, connection))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """See `Handled`."""
        return handle_error(self.error, connection)
