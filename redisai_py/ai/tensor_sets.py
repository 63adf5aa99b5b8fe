"""AI.TENSORSET: one EVALSHA on the shared stream; a burst becomes part of a group; SET in MULTI.

A command of a known template (`KeyTemplate`) is never parsed: the command for Redis is made of pieces of the client's.
The handler deals with large tensors, first commands, and users without scripts.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any

from redisai_py.ai.multi import InMulti, checked, raising
from redisai_py.commands.tensors import TensorSet
from redisai_py.errors import NoScript, RedisAIError, UpstreamError
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import OK
from redisai_py.resp.templates import Burst, Command, KeyTemplate
from redisai_py.store import codec
from redisai_py.store.lua import PROBE_SIZE, SET_ONE, SET_TENSORS, format_set
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.store.writer import Writer
from redisai_py.tensor import DType, Tensor
from redisai_py.upstream.access import Access
from redisai_py.upstream.interface import Stream

__all__ = ["HANDLERS", "SetTensor", "SetTensors"]

_OK = b"+OK\r\n"
_SHORTEST_GROUP = 4
"""Fewer commands than this do not wait for a group."""

Work = Coroutine[Any, Any, Any]


async def tensor_set(request: TensorSet, turn: Turn) -> Any:
    """AI.TENSORSET in any number of steps."""
    store = (await turn.session.authenticated()).store
    await store.put_tensors([(request.key, request.tensor)])
    return OK


class SetTensor:
    """AI.TENSORSET, parsed: one EVALSHA on the shared stream."""

    __slots__ = ("_value", "_wire", "request")
    is_ai = True
    reads: tuple[bytes, ...] = ()

    def __init__(self, request: TensorSet) -> None:
        self.request = request
        tensor = request.tensor
        header = codec.encode_header(tensor)
        small = len(header) + len(tensor.data) < LARGE_VALUE
        self._value = b"".join((header, tensor.data)) if small else b""
        self._wire = format_set(request.key, self._value) if small else b""

    @property
    def large(self) -> bool:
        """Whether it is too large for the shared stream."""
        return not self._wire

    def start(self, turn: Turn, command: Command) -> bool:
        request = self.request
        if turn.relayed or turn.busy or turn.reading.any_of((request.key,)):
            return False
        access = turn.session.access
        if access is not None and access.scripting and self._wire:
            stream = access.stream(request.key)
            if stream is not None:
                stream.send(self._wire, partial(_set, turn, access, request.key, self._value))
                turn.overlap()
                return True
        return turn.idle and turn.run_alone(tensor_set(request, turn))

    def execute(self, turn: Turn) -> Work:
        """The whole command, for a client with no other work in progress."""
        return tensor_set(self.request, turn)

    async def in_multi(self, turn: Turn) -> InMulti:
        """A script that sets the tensor; for users without scripts SET, after a check of their right to the key."""
        request = self.request
        value = (codec.encode_header(request.tensor), request.tensor.data)
        access = await turn.session.authenticated_in_multi()

        def finish(replies: list[Any]) -> Any:
            access.forget((request.key,))
            checked(replies[0])
            return OK

        if access.scripting:
            return [[b"EVAL", SET_TENSORS, b"1", request.key, value]], finish
        try:
            await access.store.check_tensor_or_absent(request.key)
        except RedisAIError as error:
            return raising(error)
        return [[b"SET", request.key, value]], finish


class SetTensors:
    """The action of a burst of AI.TENSORSET: tensors of one dtype and shape, whose data needs no check."""

    __slots__ = ("_before_value", "_key_at", "_payload_at", "_size", "_stride", "head", "head_reply", "header")
    is_ai = True

    def __init__(self, example: Tensor, template: KeyTemplate) -> None:
        header = self.header = codec.encode_header(example)
        self.head = header[:PROBE_SIZE]
        self.head_reply = b"$%d\r\n%b\r\n" % (len(self.head), self.head)
        self._before_value = b"$%d\r\n%b" % (len(header) + template.payload_size, header)
        self._payload_at = template.payload_at
        self._size = template.payload_size
        self._stride = template.stride
        self._key_at = len(template.before) - template.word_at

    @staticmethod
    def has_template(request: TensorSet, command: Command) -> bool:
        """Whether other commands with this one's template may be written without checking their data."""
        tensor = request.tensor
        # The contents of BOOL and STRING tensors are always validated; VALUES and missing data are not blobs.
        return tensor.data is command.argv[-1] and tensor.dtype not in (DType.BOOL, DType.STRING)

    def start(self, turn: Turn, burst: Burst) -> bool:
        if turn.relayed or turn.busy:
            return False
        access = turn.session.access
        if access is None:
            turn.unroll(burst)
            return True
        writer = access.writer
        if len(burst.words) == 1 and writer is not None and not (turn.in_flight or turn.backlog):
            self._start_single(turn, access, writer, burst)
            return True
        if len(burst.words) >= _SHORTEST_GROUP and not turn.skip_next and access.groups.accepts():
            if not turn.idle:
                return False
            turn.begin()
            access.groups.add(_BurstInGroup(turn, burst))
            return True
        if not turn.has_room(len(burst.words)):
            return False
        if turn.reading.any_of(self.keys(burst)):
            return False
        if not self._send(turn, access, burst):
            turn.unroll(burst)
        return True

    def _start_single(self, turn: Turn, access: Access, writer: Writer, burst: Burst) -> None:
        """Send the only command of an idle client: immediately, or together with those of others if they send too."""
        if writer.alone:
            self.send_now(turn, access, writer.stream, burst)
            turn.overlap()
        else:
            turn.begin()
            writer.join(_Joined(turn, access, burst))

    def send_now(self, turn: Turn, access: Access, stream: Stream, burst: Burst) -> None:
        """Send the only command without those of others. Raises: UpstreamLost: the stream is closed."""
        word = burst.words[0]
        payload = burst.frame[self._payload_at : -2]
        wire = b"".join((SET_ONE, word, self._before_value, payload, b"\r\n"))
        stream.send_now(wire, partial(_set, turn, access, word[self._key_at : -2], self.header + payload))

    def _send(self, turn: Turn, access: Access, burst: Burst) -> bool:
        """Send each command singly; False if that is impossible now."""
        data, at, size, key_at = burst.frame, self._payload_at, self._size, self._key_at
        stream = access.stream(burst.words[0][key_at:-2])
        if stream is None or not access.scripting:
            return False
        for word in burst.words:
            payload = data[at : at + size]
            wire = b"".join((SET_ONE, word, self._before_value, payload, b"\r\n"))
            stream.send(wire, partial(_set, turn, access, word[key_at:-2], self.header + payload))
            at += self._stride
        turn.overlap(len(burst.words))
        return True

    def _payloads(self, burst: Burst, size: int) -> list[bytes]:
        """`size` bytes of each command, from its payload on."""
        data = burst.frame
        return [data[at : at + size] for at in range(self._payload_at, len(data), self._stride)]

    def pairs(self, burst: Burst) -> Iterator[bytes]:
        """Keys and values as the words of an MSET, in pieces."""
        payloads = self._payloads(burst, self._size + 2)
        return chain.from_iterable(zip(burst.words, repeat(self._before_value), payloads))

    def keys(self, burst: Burst) -> list[bytes]:
        """The keys, in order."""
        at = self._key_at
        return [word[at:-2] for word in burst.words]

    def value(self, burst: Burst, index: int) -> bytes:
        """The write of the command with that index."""
        at = index * self._stride + self._payload_at
        return self.header + burst.frame[at : at + self._size]


class _Joined:
    """A single tensor in the commit of an iteration of the loop: a `Member` with nothing to compare."""

    __slots__ = ("_access", "_burst", "turn")
    used = ()
    options: tuple[bytes, ...] = ()
    dropped_if_gone = False  # received data is written

    def __init__(self, turn: Turn, access: Access, burst: Burst) -> None:
        self.turn = turn
        self._access = access
        self._burst = burst

    @property
    def writes(self) -> list[tuple[bytes, bytes]]:
        action: SetTensors = self._burst.action
        (key,) = action.keys(self._burst)
        return [(key, action.value(self._burst, 0))]

    def goes_alone(self, stream: Stream) -> bool:
        if stream.closed:
            return False
        self._burst.action.send_now(self.turn, self._access, stream, self._burst)
        self.turn.overlap_instead()  # more commands of this client may follow it
        return True

    def committed(self) -> None:
        self.turn.finish_with(_OK)

    def stale(self) -> None:
        ((key, value),) = self.writes
        self.turn.continue_with(tensor_set(TensorSet(key, codec.decode_tensor(value)), self.turn))

    def refused(self, error: RedisAIError) -> None:
        self.turn.finish(error)


class _BurstInGroup:
    """A burst that is written together with those of other clients: a `GroupMember` of `GroupSets`."""

    __slots__ = ("_burst", "kind", "size", "turn", "words")

    def __init__(self, turn: Turn, burst: Burst) -> None:
        self.turn = turn
        self._burst = burst
        self.kind: SetTensors = burst.action
        self.words = burst.words
        self.size = len(burst.frame)

    def pairs(self) -> Iterator[bytes]:
        return self.kind.pairs(self._burst)

    def keys(self) -> list[bytes]:
        return self.kind.keys(self._burst)

    def value(self, index: int) -> bytes:
        return self.kind.value(self._burst, index)

    def written(self) -> None:
        self._count()
        self.turn.finish_with(_OK * len(self.words))

    def refused(self, error: RedisAIError) -> None:
        self._count()
        self.turn.finish_each(error, len(self.words))

    def _count(self) -> None:
        """It was received, and counted, as one command."""
        self.turn.services.counters.commands += len(self.words) - 1

    def given_back(self) -> None:
        self.turn.give_back(self._burst)


def _set(turn: Turn, access: Access, key: bytes, value: bytes, reply: Any) -> None:
    """Redis has answered a single AI.TENSORSET."""
    if reply == b"OK":
        if access.near is not None:
            access.near.put(key, value)
        turn.answer_with(_OK)
    elif isinstance(error := redis_error(reply), NoScript):
        access.load_script(key)
        if turn.in_flight == 1:  # so nothing of this client can overtake it
            turn.second_trip(tensor_set(TensorSet(key, codec.decode_tensor(value)), turn), alone=True)
            return
        # Sending it again after later commands of the same pipeline would reorder them, so the client must decide.
        text = "ERR Redis forgot the tensor script (SCRIPT FLUSH); nothing was written, try again"
        turn.answer(UpstreamError(text))
    else:
        turn.answer(error)


HANDLERS: dict[type, Any] = {TensorSet: tensor_set}
"""Request -> its handler."""
