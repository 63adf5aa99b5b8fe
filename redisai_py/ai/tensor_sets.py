"""What AI.TENSORSET does: one EVALSHA on the shared stream, and for a row of them, if it may be, a place in a group.

A tensor whose command has a known form (`frames.HeadForm`) is never parsed: the command for Redis is made of pieces of
the client's. Large tensors, and users without scripts, go the long way (`handlers`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from redisai_py.ai import handle
from redisai_py.commands.tensors import TensorSet
from redisai_py.errors import NoScript, UpstreamError
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.templates import Burst, Command, HeadForm
from redisai_py.store import codec
from redisai_py.store.lua import PROBE_SIZE, SET_ONE, format_set
from redisai_py.store.tensors import LARGE_VALUE
from redisai_py.tensor import DType, Tensor

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection
    from redisai_py.upstream.access import Access

__all__ = ["SetTensor", "SetTensors"]

_OK = (b"+OK\r\n",)
_SHORTEST_GROUP = 4
"""Fewer commands of a client do not wait for a group."""


class SetTensor:
    """AI.TENSORSET, parsed."""

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

    def start(self, connection: Connection, command: Command) -> bool:
        session = connection.session
        request = self.request
        if session.relayed or connection.busy or request.key in connection.reading:
            return False
        access = session.access
        if access is not None and access.scripting and self._wire:
            shared = access.shared
            if shared is not None and not shared.closed:
                shared.send(self._wire, partial(_done, connection, access, request.key, self._value))
                connection.in_flight += 1
                return True
        return connection.idle and connection.run_alone(handle(request, connection))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """All of it, for a client that has nothing else under way."""
        return handle(self.request, connection)


class SetTensors:
    """The meaning of a burst of AI.TENSORSET: tensors of one dtype and shape, whose data needs no look."""

    __slots__ = ("_before_value", "_key_at", "_payload_at", "_size", "_stride", "head", "head_reply", "header")
    is_ai = True

    def __init__(self, example: Tensor, form: HeadForm) -> None:
        header = self.header = codec.encode_header(example)
        self.head = header[:PROBE_SIZE]
        self.head_reply = b"$%d\r\n%b\r\n" % (len(self.head), self.head)
        self._before_value = b"$%d\r\n%b" % (len(header) + form.payload_size, header)
        self._payload_at = form.payload_at
        self._size = form.payload_size
        self._stride = form.stride
        self._key_at = len(form.before) - form.word_at

    @staticmethod
    def has_form(request: TensorSet, command: Command) -> bool:
        """Whether another command with this one's form may be written without a look at its data."""
        tensor = request.tensor
        # What BOOL and STRING tensors contain is validated, each time; VALUES, and tensors without data, are no blob.
        return tensor.data is command.argv[-1] and tensor.dtype not in (DType.BOOL, DType.STRING)

    def start(self, connection: Connection, burst: Burst) -> bool:
        session = connection.session
        access = session.access
        if access is None:
            connection.unroll(burst)
            return True
        if len(burst.words) >= _SHORTEST_GROUP and not session.skip_next and access.groups.takes():
            if not connection.idle:
                return False
            connection.busy = True
            access.groups.add(connection, burst)
            return True
        if session.relayed or connection.busy or (connection.in_flight and not connection.has_room(len(burst.words))):
            return False
        if connection.reading and not connection.reading.isdisjoint(self.keys(burst)):
            return False
        if not self.send(connection, access, burst):
            connection.unroll(burst)
        return True

    def start_alone(self, connection: Connection, burst: Burst) -> bool:
        """Start the one command that came from this client in this iteration of the loop."""
        access = connection.session.access
        if access is None or not access.scripting or not connection.idle:
            return self.start(connection, burst)
        connection.busy = True
        access.sets.add(connection, burst)
        return True

    def send(self, connection: Connection, access: Access, burst: Burst) -> bool:
        """Send each command by itself; False if that cannot be now."""
        shared = access.shared
        if shared is None or shared.closed or not access.scripting:
            return False
        data, at, size, key_at = burst.frame, self._payload_at, self._size, self._key_at
        for word in burst.words:
            payload = data[at : at + size]
            wire = b"".join((SET_ONE, word, self._before_value, payload, b"\r\n"))
            shared.send(wire, partial(_done, connection, access, word[key_at:-2], self.header + payload))
            connection.in_flight += 1
            at += self._stride
        connection.server.commands_processed += len(burst.words) - 1
        return True

    def _payloads(self, burst: Burst, size: int) -> list[bytes]:
        """So many bytes of each command, from its payload on."""
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

    def value_word(self, burst: Burst) -> bytes:
        """What the only command writes, as a word on the wire."""
        return self._before_value + burst.frame[self._payload_at :]

    def value(self, burst: Burst, index: int) -> bytes:
        """What the command with that number writes."""
        at = index * self._stride + self._payload_at
        return self.header + burst.frame[at : at + self._size]


def _done(connection: Connection, access: Access, key: bytes, value: bytes, reply: Any) -> None:
    if reply == b"OK":
        if access.near is not None:
            access.near.put(key, value)
        connection.write(_OK)
    elif isinstance(error := redis_error(reply), NoScript):
        access.load_script()
        if connection.in_flight == 1:
            connection.busy = True  # nothing of this client may overtake it
            connection.second_trip(_again(connection, TensorSet(key, codec.decode_tensor(value))))
            return
        # Sent again behind later commands of the same pipeline it could overtake them: that is left to the client.
        text = "ERR Redis forgot the tensor script (SCRIPT FLUSH); nothing was written, try again"
        connection.reply(UpstreamError(text))
    else:
        connection.reply(error)
    connection.done_in_flight()


async def _again(connection: Connection, request: TensorSet) -> Any:
    try:
        return await handle(request, connection)
    finally:
        connection.busy = False
