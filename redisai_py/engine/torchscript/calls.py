"""Short calls of scripts and their results in memory that server and worker map both: many per wake-up. Pure.

A batch is a row of calls, and its answer a row of results, in the same order. Each is a frame of `isolation.wire` in
64 bytes and then a message of `wire.layout`: tensors, of which a call's first one is its description (JSON). A frame of
zeros ends the row. In front of the results stand two numbers that the worker counts up as it goes along: calls begun
and calls finished. So the server can tell what a worker that was killed had done, and which call it was in.

A worker may have been taken over by a script: the server copies what it reads, and checks it (`ProtocolError`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redisai_py.bounded import BoundedCache
from redisai_py.engine.isolation import wire
from redisai_py.engine.isolation.wire import FRAME, Op, Part
from redisai_py.errors import ProtocolError
from redisai_py.tensor import Buffer, DType, Tensor

__all__ = [
    "END",
    "RESULTS_AT",
    "TOO_LARGE",
    "Call",
    "Result",
    "Results",
    "progress",
    "read_calls",
    "read_result",
    "reset",
]

SLOT = 64
"""Bytes that a frame takes."""
RESULTS_AT = 64
"""Where the first result lies, behind the two numbers."""
TOO_LARGE = 13
"""Beside those of `wire.Op`: the outputs do not fit into the memory."""
END = bytes(SLOT)
_PROGRESS = struct.Struct("<QQ")
_COUNT = struct.Struct("<Q")
_BYTES = wire.code_of(DType.UINT8)
_MOST_SHAPES = 64
_MOST_PARSED = 1024
_SMALL_HEADER = 1024
_PARSED: BoundedCache[tuple[bytes, int], list[Part]] = BoundedCache(_MOST_PARSED)
_LAYOUTS: BoundedCache[tuple[Any, ...], tuple[bytes, tuple[int, ...], int]] = BoundedCache(_MOST_PARSED)
_PADS = [bytes(n) for n in range(SLOT)]


class Call:
    """All of a call but its inputs: shared by the commands with the same words.

    Args: script: identity.   entry_point: the function takes the three lists.   outputs: number of tensors expected.
    """

    __slots__ = ("_heads", "_text")

    def __init__(
        self, script: str, function: str, entry_point: bool, keys: Sequence[bytes], args: Sequence[bytes], outputs: int
    ) -> None:
        described = {
            "id": script,
            "function": function,
            "entry_point": entry_point,
            "keys": [key.decode("latin-1") for key in keys],
            "args": [arg.decode("latin-1") for arg in args],
            "outputs": outputs,
        }
        self._text = json.dumps(described).encode()
        self._heads: BoundedCache[Any, tuple[bytes, list[bytes], int]] = BoundedCache(_MOST_SHAPES)

    def message(self, inputs: Sequence[Tensor]) -> tuple[list[Buffer], int]:
        """What to write for one call, and how many bytes that are. inputs: numbers, no strings."""
        key = tuple([(tensor.dtype, tensor.shape) for tensor in inputs])
        head, pads, size = self._heads.get(key) or self._heads.keep(key, self._head(inputs))
        parts: list[Buffer] = [head]
        for tensor, pad in zip(inputs, pads, strict=True):
            parts.append(tensor.data)
            parts.append(pad)
        return parts, size

    def _head(self, inputs: Sequence[Tensor]) -> tuple[bytes, list[bytes], int]:
        text = self._text
        parts = [Part(_BYTES, (len(text),), len(text))]
        parts += [Part(wire.code_of(tensor.dtype), tensor.shape, len(tensor.data)) for tensor in inputs]
        header, offsets, total = wire.layout(parts)
        frame = FRAME.pack(Op.RUN, 0, 0, len(header), 0, total)
        head = frame.ljust(SLOT, b"\0") + header.ljust(offsets[0], b"\0") + text
        ends = [*offsets[1:], total]
        pads = [_PADS[end - offset - part.nbytes] for part, offset, end in zip(parts, offsets, ends, strict=True)]
        return head + pads[0], pads[1:], SLOT + total


def parsed(header: bytes, total: int) -> list[Part]:
    """The tensors of a message (see `wire.parse_header`): of each header that was seen lately the same list."""
    found = _PARSED.get((header, total))
    if found is None:
        found = wire.parse_header(header, total)
        if len(header) <= _SMALL_HEADER:
            _PARSED.keep((header, total), found)
    return found


# -- the worker's side -------------------------------------------------------------------------------------------------


def read_calls(memory: memoryview) -> Iterator[tuple[int, list[Part]]]:
    """The calls of a batch: where its message lies, and its tensors, of which the first one is the description."""
    at = 0
    while True:
        op, _, _, header_bytes, _, total = FRAME.unpack_from(memory, at)
        if not op:
            return
        at += SLOT
        yield at, parsed(bytes(memory[at : at + header_bytes]), total)
        at += total


class Results:
    """Puts the results of a batch into the memory. Args: memory: the worker's half."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = RESULTS_AT

    def begin_batch(self) -> None:
        """The results of another batch follow, and take the place of the last one's."""
        self._at = RESULTS_AT

    def begin(self, number: int) -> None:
        """The call of this number, from 1, is being run."""
        _COUNT.pack_into(self._memory, 0, number)

    def put(self, number: int, run_ns: int, tensors: Sequence[tuple[DType, tuple[int, ...], Buffer]]) -> None:
        """The outputs of that call: element type, shape and data of each."""
        key = tuple([(dtype, shape) for dtype, shape, _ in tensors])
        header, offsets, total = _LAYOUTS.get(key) or _LAYOUTS.keep(
            key,
            wire.layout([Part(wire.code_of(dtype), shape, len(data)) for dtype, shape, data in tensors]),
        )
        if not self._fits(total):
            self._end(number, TOO_LARGE, 0, b"", 0)
            return
        base = self._at + SLOT
        for offset, (_, _, data) in zip(offsets, tensors, strict=True):
            self._memory[base + offset : base + offset + len(data)] = data
        self._end(number, Op.DONE, run_ns, header, total)

    def fail(self, number: int, told: dict[str, Any]) -> None:
        """That call has failed."""
        header = json.dumps(told).encode()
        if self._fits(len(header)):
            self._end(number, Op.FAILED, 0, header, wire.aligned(len(header)))
        else:
            self._end(number, TOO_LARGE, 0, b"", 0)

    def _fits(self, total: int) -> bool:
        # A frame more than its own is left, so that there is always room to say that something does not fit.
        return self._at + 2 * SLOT + wire.aligned(total) <= len(self._memory)

    def _end(self, number: int, op: int, run_ns: int, header: bytes, total: int) -> None:
        at, memory = self._at, self._memory
        if at + SLOT > len(memory):  # even of such notes there is a row too long: the server runs the rest again
            return
        FRAME.pack_into(memory, at, op, 0, 0, len(header), run_ns, total)
        if header:
            memory[at + SLOT : at + SLOT + len(header)] = header
        self._at = at + SLOT + total
        _COUNT.pack_into(memory, 8, number)


# -- the server's side -------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """One call's. outputs: None unless it went well.   told: what the worker says of a failure.   end: where the next
    result lies."""

    op: int
    run_ns: int
    outputs: list[Tensor] | None
    told: dict[str, Any]
    end: int


def reset(memory: memoryview) -> None:
    """Nothing of a batch is begun or finished."""
    _PROGRESS.pack_into(memory, 0, 0, 0)


def progress(memory: memoryview) -> tuple[int, int]:
    """How many calls of the batch were begun, and how many are finished."""
    begun, finished = _PROGRESS.unpack_from(memory, 0)
    return begun, finished


def read_result(memory: memoryview, at: int) -> Result:
    """The result that lies there, in memory of its own. Raises: ProtocolError."""
    if at + SLOT > len(memory):
        raise ProtocolError("ERR script worker sent a result beyond its memory")
    op, _, _, header_bytes, run_ns, total = FRAME.unpack_from(memory, at)
    at += SLOT
    if header_bytes > total or at + total > len(memory):
        raise ProtocolError("ERR script worker sent a result beyond its memory")
    header = bytes(memory[at : at + header_bytes])
    if op == Op.DONE:
        outputs = [_tensor(memory, at, part) for part in parsed(header, total)]
        return Result(op, run_ns, outputs, {}, at + total)
    if op == Op.FAILED:
        return Result(op, 0, None, _told(header), at + total)
    if op == TOO_LARGE:
        return Result(op, 0, None, {}, at + total)
    raise ProtocolError(f"ERR script worker sent the unknown result {op}")


def _tensor(memory: memoryview, at: int, part: Part) -> Tensor:
    dtype = wire.dtype_of(part.code)
    if dtype is DType.STRING:
        raise ProtocolError("ERR script worker sent a tensor of strings")
    start = at + part.offset
    return Tensor(dtype, part.shape, bytes(memory[start : start + part.nbytes]))


def _told(header: bytes) -> dict[str, Any]:
    try:
        told = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("ERR script worker sent a malformed failure") from error
    if not isinstance(told, dict) or not isinstance(told.get("text"), str):
        raise ProtocolError("ERR script worker sent a malformed failure")
    return told
