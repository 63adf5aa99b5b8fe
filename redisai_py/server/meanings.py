"""From a command's words to what is done with it: `understand` gives an object that knows how to start.

Meanings hold nothing of a client, so one is shared by every connection that sends the same bytes again (`Frames`).
AI commands of one round trip start here, on the shared stream, without a coroutine: they are the hot path, and every
step counts. Everything else AI goes to `handlers`, everything not AI to `passthrough`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import Dag
from redisai_py.commands.models import ModelExecute
from redisai_py.commands.replies import tensor_reply
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.tensors import Form, TensorGet, TensorSet
from redisai_py.errors import CommandError, RedisAIError, UpstreamError, WrongType
from redisai_py.frames import Command, Frames
from redisai_py.server.group_sets import SetTensors
from redisai_py.server.handlers import handle, handle_error
from redisai_py.server.handlers.dag_run import template_of
from redisai_py.server.near_dags import ExecuteDag
from redisai_py.server.passthrough import understand_plain
from redisai_py.server.runs import ExecuteModel
from redisai_py.store import codec
from redisai_py.store.scripts import format_set_prefix
from redisai_py.store.store import LARGE_VALUE, empty_tensor_key
from redisai_py.tensor import Buffer, DType, Tensor

if TYPE_CHECKING:
    from redisai_py.server.access import Access
    from redisai_py.server.connection import Connection

__all__ = ["Meaning", "understand"]

_LONGEST_NAME = 32
_OK = (b"+OK\r\n",)
_TENSORSET = COMMANDS[b"AI.TENSORSET"]


class Meaning(Protocol):
    """What to do with a command."""

    is_ai: bool

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        """Start it; False if it must wait until other work of this client is done."""


def understand(command: Command, frames: Frames) -> Meaning:
    """The meaning of a command not seen before; remembered by its bytes where that is sound."""
    name = command.argv[0]
    upper = bytes(name).upper() if len(name) <= _LONGEST_NAME else b""
    spec = COMMANDS.get(upper)
    if spec is None:
        command.meaning = understand_plain(upper)
        return command.meaning  # type: ignore[no-any-return]
    if spec is _TENSORSET and command.frame and (known := _understand_by_form(command, frames)):
        return known
    meaning = command.meaning = _understand_ai(spec, command)
    if command.frame:
        if type(meaning) is SetTensor and meaning.takes_payload:
            # Only what stands before the blob: the next one has other data, and this one's must not be kept here.
            size = len(command.argv[-1])
            head = Command(command.argv[:-1], payload_size=size, meaning=meaning)
            frame = command.frame[: -size - 2]
            if not meaning.large:
                frames.name_form(head, frame, partial(SetTensors, meaning.header))
            frames.remember(frame, head)
        else:
            frames.remember(command.frame, command)
    return meaning


def _understand_by_form(command: Command, frames: Frames) -> SetTensor | None:
    """The meaning of a tensor under a new key, whose command is otherwise as one before it: nothing need be parsed."""
    argv = command.argv
    size = len(argv[-1])
    frame = command.frame[: -size - 2]
    form = frames.form_of(frame)
    if form is None or form.example is None:
        return None
    meaning: SetTensor = form.example.meaning.with_key(argv[1], size)
    head = Command(argv[:-1], payload_size=size, meaning=meaning)
    head.form = form
    frames.remember(frame, head)
    command.meaning = meaning
    return meaning


def _understand_ai(spec: CommandSpec, command: Command) -> Meaning:
    try:
        if Dag in spec.request:
            return ExecuteDag(template_of(spec, command.argv), command.argv)
        request = spec.parse(command.argv)
    except CommandError as error:
        return Failing(error)
    if type(request) is TensorSet:
        return SetTensor(request, command.argv[-1])
    if type(request) is TensorGet:
        return GetTensor(request)
    if type(request) is ModelExecute:
        return ExecuteModel(request)
    return Handled(request)


class Handled:
    """An AI command with a handler."""

    __slots__ = ("request",)
    is_ai = True

    def __init__(self, request: Any) -> None:
        self.request = request

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        return connection.idle and connection.run_alone(handle(self.request, connection))


class Failing:
    """An AI command with a syntax error; the look-ups that come before it in the command's order may fail first."""

    __slots__ = ("error",)
    is_ai = True

    def __init__(self, error: CommandError) -> None:
        self.error = error

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        return connection.idle and connection.run_alone(handle_error(self.error, connection))


class SetTensor:
    """AI.TENSORSET: one EVALSHA on the shared stream; large tensors, and users without scripts, go the long way."""

    __slots__ = ("_data", "_dtype", "_prefix", "_shape", "header", "key", "large", "takes_payload")
    is_ai = True

    def __init__(self, request: TensorSet, last_word: Buffer) -> None:
        tensor = request.tensor
        data = tensor.data
        self.key = request.key
        self._dtype = tensor.dtype
        self._shape = tensor.shape
        # VALUES commands and tensors without data make data of their own; a blob is the command's last word.
        self._data = None if data is last_word else data
        # What BOOL and STRING tensors contain is validated, each time.
        self.takes_payload = self._data is None and tensor.dtype not in (DType.BOOL, DType.STRING)
        header = self.header = codec.encode_header(tensor)
        self.large = len(header) + len(data) >= LARGE_VALUE
        self._prefix = b"" if self.large else format_set_prefix(request.key, header, len(data))

    def with_key(self, key: bytes, size: int) -> SetTensor:
        """The meaning of the same command with another key and a blob of `size` bytes, as long as its own."""
        other = SetTensor.__new__(SetTensor)
        other.key = key
        other.header, other.large, other.takes_payload = self.header, self.large, self.takes_payload
        other._dtype, other._shape, other._data = self._dtype, self._shape, None
        other._prefix = format_set_prefix(key, self.header, size)
        return other

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        session = connection.session
        if session.relayed or connection.busy or (connection.reading and self.key in connection.reading):
            return False
        data: Any = payload if payload is not None else self._data_of(command)
        access = session.access
        if access is not None and access.scripting and not self.large:
            shared = access.shared
            if shared is not None and not shared.closed:
                shared.send(b"".join((self._prefix, data, b"\r\n")), partial(self._done, connection, access, data))
                connection.in_flight += 1
                return True
        return connection.idle and connection.run_alone(handle(self._request(data), connection))

    def _done(self, connection: Connection, access: Access, data: Buffer, reply: Any) -> None:
        if reply == b"OK":
            if access.near is not None:
                access.near.put(self.key, b"".join((self.header, data)))
            connection.write(_OK)
        elif isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"):
            access.load_script()
            if connection.in_flight == 1:
                connection.busy = True  # nothing of this client may overtake it
                connection.second_trip(self._again(connection, data))
                return
            # Sent again behind later commands of the same pipeline it could overtake them: that is left to the client.
            text = "ERR Redis forgot the tensor script (SCRIPT FLUSH); nothing was written, try again"
            connection.reply(UpstreamError(text))
        else:
            connection.reply(write_error(reply))
        connection.done_in_flight()

    async def _again(self, connection: Connection, data: Buffer) -> Any:
        try:
            return await handle(self._request(data), connection)
        finally:
            connection.busy = False

    def request_of(self, command: Command, payload: bytes | None) -> TensorSet:
        """The request with the data of this command."""
        return self._request(payload if payload is not None else self._data_of(command))

    def _data_of(self, command: Command) -> Buffer:
        data: Buffer = command.argv[-1] if self._data is None else self._data
        return data

    def _request(self, data: Buffer) -> TensorSet:
        return TensorSet(self.key, Tensor(self._dtype, self._shape, data))


class GetTensor:
    """AI.TENSORGET: the value's first 64 KiB on the shared stream, which is all of a small one."""

    __slots__ = ("_frame", "request")
    is_ai = True

    def __init__(self, request: TensorGet) -> None:
        self.request = request
        self._frame = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$5\r\n%d\r\n" % (
            len(request.key), request.key, LARGE_VALUE - 1
        )  # fmt: skip

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
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
        return connection.idle and connection.run_alone(handle(self.request, connection))

    def _got(self, connection: Connection, value: Any) -> None:
        request = self.request
        try:
            if type(value) is not bytes:
                raise read_error(value)
            if not value or (len(value) == LARGE_VALUE and (request.form is not Form.NONE or not request.meta)):
                connection.second_trip(_get_again(request, connection, value))
                return
            if len(value) == LARGE_VALUE:
                reply = tensor_reply(request, *codec.read_header(value[: codec.header_size(value)])[:2], b"")
            else:
                tensor = codec.decode_tensor(value)
                reply = tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)
        except RedisAIError as error:
            reply = error
        connection.reply(reply)
        connection.done_in_flight()


async def _get_again(request: TensorGet, connection: Connection, value: bytes) -> Any:
    """The value was empty (absent, or an empty string), or is large."""
    access = await connection.session.authenticated()
    if not value:
        if await access.store.check_tensor_or_absent(request.key):
            return await handle(request, connection)
        raise empty_tensor_key()
    tensor = await access.store.large_tensor(request.key)
    return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)


def read_error(reply: Any) -> RedisAIError:
    """The error for a read that Redis refused."""
    if isinstance(reply, RedisAIError):
        return reply
    text = str(reply)
    return WrongType() if text.startswith("WRONGTYPE") else UpstreamError(text)


def write_error(reply: Any) -> RedisAIError:
    """The error for a tensor that Redis refused to write."""
    if isinstance(reply, RedisAIError):
        return reply
    text = str(reply)
    return WrongType() if "WRONGTYPE" in text else UpstreamError(text)
