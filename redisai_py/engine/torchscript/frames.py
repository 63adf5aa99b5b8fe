"""What is in the frames (`framing`) between the server and a script's worker process: tensors and reply trees. Pure.

A worker runs users' code, which may have taken it over: nothing in a frame is trusted, and inconsistent data raise
`ProtocolError`. docs/adr/0009 lists the frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from redisai_py.errors import ProtocolError, RedisAIError
from redisai_py.framing import ALIGNMENT, encode_frame
from redisai_py.tensor import Buffer, DType, Tensor, is_shape

__all__ = [
    "CALLS",
    "DONE",
    "Meta",
    "ReplyTree",
    "decode_tensors",
    "encode_reply",
    "encode_run",
    "encode_tensors",
]

Meta = list[Any]
"""One tensor in a header: [dtype name, shape, bytes]."""

ReplyTree = None | bytes | int | RedisAIError | Sequence["ReplyTree"]
"""A Redis reply: null, string, integer, error or array."""


CALLS = encode_frame({"op": "calls"})[0]
"""The frame that tells a worker of calls in the memory that it shares with the server (`calls`)."""
DONE = encode_frame({"op": "done"})[0]
"""The frame that tells the server that they have run."""


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
