"""Frames between the server and a script's worker process, and the tensors and reply trees in them. Pure: no I/O.

A frame is a 12-byte prefix (`>IQ`: header bytes, payload bytes), a JSON header padded with spaces to a multiple of 16
bytes, so that the payload is aligned, and a raw payload. A worker runs users' code, which may have taken it over:
nothing in a frame is trusted, and inconsistent data raise `ProtocolError`. docs/adr/0009 lists the frames.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from redisai_py.errors import ProtocolError, RedisAIError
from redisai_py.tensor import Buffer, DType, Tensor, is_shape

__all__ = [
    "CALLS",
    "DONE",
    "Frame",
    "FrameReader",
    "Meta",
    "ReplyTree",
    "decode_tensors",
    "encode_frame",
    "encode_reply",
    "encode_run",
    "encode_tensors",
]

PREFIX = struct.Struct(">IQ")
ALIGNMENT = 16
MAX_HEADER_BYTES = 1 << 24
JOIN_BYTES = 1 << 16
SCRATCH_BYTES = 1 << 16

Frame = tuple[dict[str, Any], memoryview]
"""Header and payload."""

Meta = list[Any]
"""One tensor in a header: [dtype name, shape, bytes]."""

ReplyTree = None | bytes | int | RedisAIError | Sequence["ReplyTree"]
"""A Redis reply: null, string, integer, error or array."""


def encode_frame(header: dict[str, Any], parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Buffers to write for one frame: a single one if the frame is small; otherwise `parts` are not copied."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    size = sum(len(part) for part in parts)
    head = PREFIX.pack(len(text), size) + text
    if size <= JOIN_BYTES:
        return [b"".join((head, *parts))]
    return [head, *(part for part in parts if len(part))]


CALLS = encode_frame({"op": "calls"})[0]
"""The frame that tells a worker of calls in the memory that it shares with the server (`calls`)."""
DONE = encode_frame({"op": "done"})[0]
"""The frame that tells the server that they have run."""


class FrameReader:
    """Bytes in, frames out: a small frame costs one read, and a large payload is received straight into its own memory.

    max_payload_bytes: larger ones are refused; 0 means no limit.
    """

    def __init__(self, max_payload_bytes: int = 0) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._scratch = bytearray(SCRATCH_BYTES)
        self._body: bytearray | None = None
        """Header and payload of a frame that exceeds the scratch memory."""
        self._header_size = 0
        self._filled = 0

    def buffer(self) -> memoryview:
        """Memory for the next bytes; never empty."""
        return memoryview(self._scratch if self._body is None else self._body)[self._filled :]

    def received(self, count: int) -> list[Frame]:
        """`count` bytes were put into `buffer()`. Returns: the frames that they complete.

        Raises: ProtocolError: sizes beyond the limits, or a header that is not a JSON object.
        """
        self._filled += count
        if self._body is None:
            return self._small_frames()
        if self._filled < len(self._body):
            return []
        frame = (_parse_header(self._body[: self._header_size]), memoryview(self._body)[self._header_size :])
        self._body, self._filled = None, 0
        return [frame]

    def _small_frames(self) -> list[Frame]:
        frames: list[Frame] = []
        scratch, at, filled = self._scratch, 0, self._filled
        while filled - at >= PREFIX.size:
            header_size, payload_size = PREFIX.unpack_from(scratch, at)
            self._check_sizes(header_size, payload_size)
            start = at + PREFIX.size
            middle, end = start + header_size, start + header_size + payload_size
            if end <= filled:
                frames.append((_parse_header(scratch[start:middle]), memoryview(scratch[middle:end])))
                at = end
            elif end - at <= len(scratch):
                break
            else:
                self._body, self._header_size = bytearray(end - start), header_size
                self._body[: filled - start] = scratch[start:filled]
                self._filled = filled - start
                return frames
        scratch[: filled - at] = scratch[at:filled]
        self._filled = filled - at
        return frames

    def _check_sizes(self, header: int, payload: int) -> None:
        too_large = bool(self._max_payload_bytes) and payload > self._max_payload_bytes
        if not 0 < header <= MAX_HEADER_BYTES or too_large:
            raise ProtocolError(f"ERR script worker sent a frame of {header} and {payload} bytes")


def _parse_header(text: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("ERR script worker sent a malformed header") from error
    if not isinstance(header, dict):
        raise ProtocolError("ERR script worker sent a malformed header")
    return header


def encode_tensors(tensors: Iterable[Tensor]) -> tuple[list[Meta], list[Buffer]]:
    """Headers and payload parts of tensors, without a copy; each starts at a multiple of 16 bytes."""
    metas: list[Meta] = []
    parts: list[Buffer] = []
    for tensor in tensors:
        size = len(tensor.data)
        metas.append([tensor.dtype.name, tensor.shape, size])
        parts.append(tensor.data)
        if size % ALIGNMENT:
            parts.append(bytes(-size % ALIGNMENT))
    return metas, parts


def decode_tensors(metas: Sequence[Meta], payload: memoryview) -> list[Tensor]:
    """Tensors that share the payload's memory.

    Raises: ProtocolError: the header does not match the data.
    """
    tensors = []
    offset = 0
    for name, shape, size in metas:
        dtype = DType.__members__.get(name)
        if dtype is None or not is_shape(shape, dtype) or type(size) is not int or offset + size > len(payload):
            raise ProtocolError("ERR script worker sent a malformed tensor")
        if dtype.itemsize * math.prod(shape) != size:
            raise ProtocolError("ERR script worker sent a malformed tensor")
        tensors.append(Tensor(dtype, tuple(shape), payload[offset : offset + size]))
        offset += size + -size % ALIGNMENT
    return tensors


_NULL, _STRING, _INTEGER, _ARRAY = range(4)


def encode_reply(reply: ReplyTree) -> tuple[dict[str, Any], list[Buffer]]:
    """A reply tree in postfix order, from which the scripts' prelude rebuilds it with a stack.

    Returns: the header's fields (`kinds`, one per node; `strings`, sizes; `integers`, with lengths of arrays), and
    the strings.
    Raises:  RedisAIError: the first error in the tree, at any depth: a script sees an error raised, never as a value.
    """
    kinds: list[int] = []
    integers: list[int] = []
    strings: list[bytes] = []
    _walk(reply, kinds, integers, strings)
    return {"kinds": kinds, "strings": [len(item) for item in strings], "integers": integers}, list(strings)


def _walk(reply: ReplyTree, kinds: list[int], integers: list[int], strings: list[bytes]) -> None:
    if reply is None:
        kinds.append(_NULL)
    elif isinstance(reply, int):
        kinds.append(_INTEGER)
        integers.append(int(reply))
    elif isinstance(reply, bytes):
        kinds.append(_STRING)
        strings.append(reply)
    elif isinstance(reply, RedisAIError):
        raise reply
    else:
        for item in reply:
            _walk(item, kinds, integers, strings)
        kinds.append(_ARRAY)
        integers.append(len(reply))


def encode_run(
    tensors: Sequence[Tensor], keys: Sequence[bytes], args: Sequence[bytes]
) -> tuple[dict[str, Any], list[Buffer]]:
    """The part of a run's frame that describes its payload, and the payload."""
    metas, parts = encode_tensors(tensors)
    parts.extend(keys)
    parts.extend(args)
    sizes = {"keys": [len(key) for key in keys], "args": [len(arg) for arg in args]}
    return {"op": "run", "tensors": metas, **sizes}, parts
