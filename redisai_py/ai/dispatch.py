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
from redisai_py.ai.tensor_sets import SetTensor, SetTensors
from redisai_py.ai.tensor_stream import STREAM_SIZE, TensorStream
from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import Form, TensorGet, TensorSet, tensor_reply
from redisai_py.errors import TENSOR_KEY_EMPTY, CommandError, MissingKey, RedisAIError
from redisai_py.frontdoor.driver import NO_REPLY
from redisai_py.frontdoor.redis_commands import Relayed, RelayedRow, understand_plain
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.templates import Command, Frames
from redisai_py.store import codec
from redisai_py.tensor import DType

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["Meaning", "joint_meaning", "understand"]

_FIRST_BYTES = codec.MAX_HEADER + 9
"""What is read of a tensor at first: the longest header, and all of a small one."""
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


class GetTensor:
    """AI.TENSORGET: the value's first 64 KiB on the shared stream, which is all of a small one."""

    __slots__ = ("_frame", "request")
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def __init__(self, request: TensorGet) -> None:
        self.request = request
        self._frame = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$5\r\n%d\r\n" % (
            len(request.key), request.key, _FIRST_BYTES - 1
        )  # fmt: skip

    def start(self, connection: Connection, command: Command) -> bool:
        session = connection.session
        if session.relayed or connection.busy:
            return False
        access = session.access
        if access is not None:
            shared = access.shared
            if shared is not None and not shared.closed:
                shared.send(self._frame, partial(self._got, connection))
                connection.in_flight += 1
                connection.reading.add(self.request.key)
                return True
        return connection.idle and connection.run_alone(_once_connected(connection, command))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """See `Handled`."""
        return handle(self.request, connection)

    def _got(self, connection: Connection, value: Any) -> None:
        request = self.request
        try:
            if type(value) is not bytes:
                raise redis_error(value)
            if not value or (len(value) == _FIRST_BYTES and (request.form is not Form.NONE or not request.meta)):
                connection.second_trip(_get_again(request, connection, value))
                return
            if len(value) == _FIRST_BYTES:
                reply = tensor_reply(request, *codec.read_header(value[: codec.header_size(value)])[:2], b"")
            else:
                tensor = codec.decode_tensor(value)
                reply = tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)
        except RedisAIError as error:
            reply = error
        connection.reply(reply)
        connection.done_in_flight()


async def _once_connected(connection: Connection, command: Command) -> object:
    """Start a command again when the shared stream is there."""
    await connection.session.authenticated()
    connection.backlog.appendleft(command)
    return NO_REPLY


async def _get_again(request: TensorGet, connection: Connection, value: bytes) -> Any:
    """The value was empty (absent, or an empty string), or is large."""
    access = await connection.session.authenticated()
    if not value:
        if await access.store.check_tensor_or_absent(request.key):
            return await handle(request, connection)
        raise MissingKey(TENSOR_KEY_EMPTY)
    if request.form is Form.BLOB:
        dtype, _, size = codec.read_header(value[: codec.header_size(value)])
        if size >= STREAM_SIZE and dtype is not DType.STRING:
            return TensorStream(request, connection)
    tensor = await access.store.large_tensor(request.key)
    return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)
