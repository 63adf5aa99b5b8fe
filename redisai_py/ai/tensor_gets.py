"""AI.TENSORGET: one GETRANGE on the shared stream; for a burst one write and one reply; GET in MULTI.

Commands that differ only in their key share a template (`KeyTemplate`) and are never parsed. The handler deals with
first commands and large tensors.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from itertools import repeat
from typing import Any

from redisai_py.ai.multi import InMulti, checked
from redisai_py.commands import tensors
from redisai_py.commands.tensors import Form, TensorGet, tensor_reply
from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey, RedisAIError, WrongType
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.held_replies import STREAM_SIZE, Streamed
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import LARGE_SEGMENT, TensorReply, tensor_head
from redisai_py.resp.templates import Burst, Command, KeyTemplate
from redisai_py.store import codec

__all__ = ["HANDLERS", "GetTensor", "GetTensors"]

_FIRST_BYTES = codec.MAX_HEADER + 9
"""Bytes of a tensor that are read at first: the longest header, and all of a small tensor."""
_READ = b"*4\r\n$8\r\nGETRANGE\r\n"
_RANGE = b"$1\r\n0\r\n$5\r\n%d\r\n" % (_FIRST_BYTES - 1)
_NEXT = _RANGE + _READ
_BYTES = {bytes}


async def tensor_get(request: TensorGet, turn: Turn) -> Any:
    """AI.TENSORGET in any number of steps."""
    tensor = await (await turn.session.authenticated()).store.tensor(request.key)
    return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)


class GetTensor:
    """AI.TENSORGET: the value's first 64 KiB on the shared stream, which is all of a small tensor."""

    __slots__ = ("_frame", "request")
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def __init__(self, request: TensorGet) -> None:
        self.request = request
        self._frame = b"%b$%d\r\n%b\r\n%b" % (_READ, len(request.key), request.key, _RANGE)

    def start(self, turn: Turn, command: Command) -> bool:
        if turn.relayed or turn.busy:
            return False
        access = turn.session.access
        if access is not None:
            stream = access.stream(self.request.key)
            if stream is not None:
                stream.send(self._frame, partial(_answer, turn, self.request, self.request.key))
                turn.overlap_reading((self.request.key,))
                return True
        return turn.idle and turn.run_alone(_once_connected(turn, command))

    def carry_out(self, turn: Turn) -> Coroutine[Any, Any, Any]:
        """See `SetTensor`."""
        return tensor_get(self.request, turn)

    async def in_multi(self, turn: Turn) -> InMulti:
        """A plain GET."""
        request = self.request

        def finish(replies: list[Any]) -> Any:
            value = checked(replies[0])
            if value is None:
                raise MissingKey(TENSOR_KEY_EMPTY)
            tensor = codec.decode_tensor(value)
            return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)

        return [[b"GET", request.key]], finish


class GetTensors:
    """The action of a burst of AI.TENSORGET with BLOB: one write, and one answer if the values are alike."""

    __slots__ = ("_key_at", "_request")
    is_ai = True

    def __init__(self, example: TensorGet, template: KeyTemplate) -> None:
        self._request = example
        self._key_at = len(template.before) - template.word_at

    @staticmethod
    def has_template(request: TensorGet) -> bool:
        """Whether commands that differ from this one only in their key may be handled together."""
        return request.form is Form.BLOB

    def start(self, turn: Turn, burst: Burst) -> bool:
        if turn.relayed or turn.busy:
            return False
        access = turn.session.access
        keys = self._keys(burst)
        stream = access.stream(keys[0]) if access is not None else None
        words = burst.words
        count = len(words)
        if stream is None or (turn.skip_next and count > 1):
            turn.unroll(burst)
            return True
        if count == 1:
            stream.send(_READ + words[0] + _RANGE, partial(_answer, turn, self._request, keys[0]))
            turn.overlap_reading(keys)
            return True
        if not turn.has_room(count):
            return False
        values: list[Any] = []
        last = partial(self._got, turn, burst, values)
        stream.send_all(_READ + _NEXT.join(words) + _RANGE, [*repeat(values.append, count - 1), last])
        turn.overlap_reading(keys)
        return True

    def _keys(self, burst: Burst) -> list[bytes]:
        at = self._key_at
        return [word[at:-2] for word in burst.words]

    def _got(self, turn: Turn, burst: Burst, values: list[Any], last: Any) -> None:
        values.append(last)
        reply = self._joint_reply(values)
        if reply is not None:
            turn.answer_together(reply, len(values))
            return
        for key, value in zip(self._keys(burst), values, strict=True):
            _answer(turn, self._request, key, value)

    def _joint_reply(self, values: list[Any]) -> bytes | None:
        """The replies to all, if they are small tensors of one dtype and shape."""
        first = values[0]
        if set(map(type, values)) != _BYTES or len(first) >= LARGE_SEGMENT or len(set(map(len, values))) > 1:
            return None
        try:
            tensor = codec.decode_tensor(first)
        except WrongType:
            return None
        start = len(first) - len(tensor.data)
        header = first[:start]
        if tensor.dtype.is_string or not all([value.startswith(header) for value in values]):
            return None
        head = tensor_head(TensorReply(tensor.dtype, tensor.shape, self._request.meta, b""), len(tensor.data))
        blobs = [value[start:] for value in values]
        blobs[0] = head + blobs[0]  # add to the ends first, so that the whole is copied once
        blobs[-1] += b"\r\n"
        return (b"\r\n" + head).join(blobs)


def _answer(turn: Turn, like: TensorGet, key: bytes, value: Any) -> None:
    """Reply with Redis's answer. like: a request for the same parts of a tensor, under any key."""
    try:
        if type(value) is not bytes:
            raise redis_error(value)
        if not value or (len(value) == _FIRST_BYTES and (like.form is not Form.NONE or not like.meta)):
            turn.second_trip(_get_again(TensorGet(key, like.meta, like.form), turn, value))
            return
        if len(value) == _FIRST_BYTES:
            reply = tensor_reply(like, *codec.read_header(value[: codec.header_size(value)])[:2], b"")
        else:
            tensor = codec.decode_tensor(value)
            reply = tensor_reply(like, tensor.dtype, tensor.shape, tensor.data)
    except RedisAIError as error:
        reply = error
    turn.answer(reply)


async def _once_connected(turn: Turn, command: Command) -> object:
    """Start a command again once the shared stream is open."""
    await turn.session.authenticated()
    turn.put_back(command)
    return NO_REPLY


async def _get_again(request: TensorGet, turn: Turn, value: bytes) -> Any:
    """The value was empty (absent, or an empty string), or is large."""
    access = await turn.session.authenticated()
    if not value:
        if await access.store.check_tensor_or_absent(request.key):
            return await tensor_get(request, turn)
        raise MissingKey(TENSOR_KEY_EMPTY)
    if request.form is Form.BLOB:
        dtype, _, size = codec.read_header(value[: codec.header_size(value)])
        if size >= STREAM_SIZE and not dtype.is_string:
            return Streamed(request)
    tensor = await access.store.large_tensor(request.key)
    return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)


HANDLERS: dict[type, Any] = {
    tensors.TensorGet: tensor_get,
}
"""Request -> its handler."""
