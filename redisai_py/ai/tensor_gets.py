"""What AI.TENSORGET does: one GETRANGE on the shared stream, and for a row of them, one write and one reply.

The commands of a row that differ in their key only have a known form (`templates.HeadForm`) and are never parsed.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from redisai_py.ai import handle
from redisai_py.ai.tensor_stream import STREAM_SIZE, TensorStream
from redisai_py.commands.tensors import Form, TensorGet, tensor_reply
from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey, RedisAIError, WrongType
from redisai_py.frontdoor.driver import NO_REPLY
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import LARGE_SEGMENT, TensorReply, tensor_head
from redisai_py.resp.templates import Burst, Command, HeadForm
from redisai_py.store import codec
from redisai_py.tensor import DType

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["GetTensor", "GetTensors"]

_FIRST_BYTES = codec.MAX_HEADER + 9
"""What is read of a tensor at first: the longest header, and all of a small one."""
_READ = b"*4\r\n$8\r\nGETRANGE\r\n"
_RANGE = b"$1\r\n0\r\n$5\r\n%d\r\n" % (_FIRST_BYTES - 1)
_NEXT = _RANGE + _READ
_BYTES = {bytes}


class GetTensor:
    """AI.TENSORGET: the value's first 64 KiB on the shared stream, which is all of a small one."""

    __slots__ = ("_frame", "request")
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def __init__(self, request: TensorGet) -> None:
        self.request = request
        self._frame = b"%b$%d\r\n%b\r\n%b" % (_READ, len(request.key), request.key, _RANGE)

    def start(self, connection: Connection, command: Command) -> bool:
        session = connection.session
        if session.relayed or connection.busy:
            return False
        access = session.access
        if access is not None:
            shared = access.shared
            if shared is not None and not shared.closed:
                shared.send(self._frame, partial(self.got, connection))
                connection.in_flight += 1
                connection.reading.add(self.request.key)
                return True
        return connection.idle and connection.run_alone(_once_connected(connection, command))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """See `Handled`."""
        return handle(self.request, connection)

    def got(self, connection: Connection, value: Any) -> None:
        """Reply with what Redis answered."""
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


class GetTensors:
    """The meaning of a burst of AI.TENSORGET with BLOB: read in one write, answered in one if the values are alike."""

    __slots__ = ("_key_at", "_request")
    is_ai = True

    def __init__(self, example: TensorGet, form: HeadForm) -> None:
        self._request = example
        self._key_at = len(form.before) - form.word_at

    @staticmethod
    def has_form(request: TensorGet) -> bool:
        """Whether commands that differ from this one's in their key only may be taken together."""
        return request.form is Form.BLOB

    def start(self, connection: Connection, burst: Burst) -> bool:
        session = connection.session
        if session.relayed or connection.busy:
            return False
        access = session.access
        shared = access.shared if access is not None else None
        if shared is None or shared.closed or session.skip_next:
            connection.unroll(burst)
            return True
        words = burst.words
        count = len(words)
        if not connection.has_room(count):
            return False
        values: list[Any] = []
        last = partial(self._got, connection, burst, values)
        shared.send_row(_READ + _NEXT.join(words) + _RANGE, [*repeat(values.append, count - 1), last])
        connection.in_flight += count
        connection.reading.update(self._keys(burst))
        connection.server.commands_processed += count - 1
        return True

    start_alone = start
    """Start the one command that came from this client in this iteration of the loop."""

    def _keys(self, burst: Burst) -> list[bytes]:
        at = self._key_at
        return [word[at:-2] for word in burst.words]

    def _got(self, connection: Connection, burst: Burst, values: list[Any], last: Any) -> None:
        values.append(last)
        reply = self._joint_reply(values)
        if reply is not None:
            connection.write((reply,))
            connection.in_flight -= len(values) - 1
            connection.done_in_flight()
            return
        request = self._request
        for key, value in zip(self._keys(burst), values, strict=True):
            GetTensor(TensorGet(key, request.meta, request.form)).got(connection, value)

    def _joint_reply(self, values: list[Any]) -> bytes | None:
        """The replies to all, if these are small tensors of one dtype and shape."""
        first = values[0]
        if set(map(type, values)) != _BYTES or len(first) >= LARGE_SEGMENT or len(set(map(len, values))) > 1:
            return None
        try:
            tensor = codec.decode_tensor(first)
        except WrongType:
            return None
        start = len(first) - len(tensor.data)
        header = first[:start]
        if tensor.dtype is DType.STRING or not all([value.startswith(header) for value in values]):
            return None
        head = tensor_head(TensorReply(tensor.dtype, tensor.shape, self._request.meta, b""), len(tensor.data))
        return b"".join((head, (b"\r\n" + head).join([value[start:] for value in values]), b"\r\n"))


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
