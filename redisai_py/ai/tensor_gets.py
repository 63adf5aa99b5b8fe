"""AI.TENSORGET: one GETRANGE on the shared stream; for a burst one write and one reply; GET in MULTI.

Commands that differ only in their key share a template (`KeyTemplate`) and are never parsed. The handler deals with
first commands and large tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import lru_cache, partial
from operator import itemgetter
from struct import Struct
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
from redisai_py.upstream.burst_replies import BurstReplies

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

    def execute(self, turn: Turn) -> Coroutine[Any, Any, Any]:
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

    __slots__ = ("_head", "_key_of", "_prefix", "request")
    is_ai = True

    def __init__(self, example: TensorGet, template: KeyTemplate) -> None:
        self.request = example
        self._key_of = itemgetter(slice(len(template.before) - template.word_at, -2))
        self._prefix = b"\n"  # how Redis's latest reply begins, up to the tensor's data; none begins like this
        self._head = b""  # how ours begins then

    @staticmethod
    def has_template(request: TensorGet) -> bool:
        """Whether commands that differ from this one only in their key may be handled together."""
        return request.form is Form.BLOB

    def start(self, turn: Turn, burst: Burst) -> bool:
        if turn.relayed or turn.busy:
            return False
        access = turn.session.access
        words = burst.words
        key = self._key_of(words[0])
        stream = access.stream(key) if access is not None else None
        count = len(words)
        if stream is None or (turn.skip_next and count > 1):
            turn.unroll(burst)
            return True
        if count == 1:
            stream.send(_READ + words[0] + _RANGE, partial(_answer, turn, self.request, key))
            turn.overlap_reading((key,))
            return True
        if not turn.has_room(count):
            return False
        stream.send_all(_READ + _NEXT.join(words) + _RANGE, _Values(turn, self, words))
        turn.overlap_reading(self.keys(words), count)
        return True

    def keys(self, words: list[bytes]) -> Iterator[bytes]:
        """The keys in these words of commands."""
        return map(self._key_of, words)

    def joint_reply(self, data: bytes, start: int, end: int, count: int) -> bytes | None:
        """The replies to all, if they are small tensors of one dtype and shape; see `BurstReplies`."""
        stride = (end - start) // count
        if not data.startswith(self._prefix, start) and not self._learn(data[start : start + stride]):
            return None
        prefix, head = self._prefix, self._head
        parts = _cutter(len(prefix), stride - len(prefix), count)(data, start)
        if parts[::2].count(prefix) < count:
            return None
        return head.join((b"", *parts[1::2]))

    def _learn(self, reply: bytes) -> bool:
        """Remember how a small tensor's value begins. False if this is none, or its data must be checked."""
        value = reply[reply.index(b"\n") + 1 : -2]
        try:
            tensor = codec.decode_tensor(value)
        except WrongType:
            return False
        if tensor.dtype.is_string or len(value) >= LARGE_SEGMENT:
            return False
        size = len(tensor.data)
        self._prefix = reply[: -size - 2]
        self._head = tensor_head(TensorReply(tensor.dtype, tensor.shape, self.request.meta, b""), size)
        return True


@lru_cache(maxsize=256)
def _cutter(prefix: int, rest: int, count: int) -> Callable[[bytes, int], tuple[Any, ...]]:
    """A function that cuts replies of one length into pieces of these sizes; much faster than slices."""
    return Struct(f"{prefix}s{rest}s" * count).unpack_from


class _Values(BurstReplies):
    """The values that a burst of one client asks for."""

    __slots__ = ("_action", "_words", "turn")

    def __init__(self, turn: Turn, action: GetTensors, words: list[bytes]) -> None:
        super().__init__(len(words))
        self.turn = turn
        self._action = action
        self._words = words

    def joint_reply(self, data: bytes, start: int, end: int) -> bytes | None:
        return self._action.joint_reply(data, start, end, self.count)

    def answer_together(self, reply: bytes) -> None:
        self.turn.answer_together(reply, self.count)

    def answer_each(self, replies: list[Any]) -> None:
        joint = self._joined(replies)
        if joint is not None:
            self.answer_together(joint)
            return
        for key, value in zip(self._action.keys(self._words), replies, strict=True):
            _answer(self.turn, self._action.request, key, value)

    def _joined(self, replies: list[Any]) -> bytes | None:
        """The joint reply to replies that were parsed all the same: others came before them, or they are long."""
        if set(map(type, replies)) != _BYTES or len(set(map(len, replies))) > 1 or len(replies[0]) >= LARGE_SEGMENT:
            return None
        head = b"$%d\r\n" % len(replies[0])
        data = head + (b"\r\n" + head).join(replies) + b"\r\n"
        return self.joint_reply(data, 0, len(data))


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
