"""The key of a prediction: SHA-256 over everything that determines it. Pure.

The model's part covers the digest of the loaded bytes, the backend and its version, the kind of device, and the names
of inputs and outputs. The inputs' part is the digest of each, which covers its dtype, shape and bytes. The `id` of the
hash takes no part: it is new at every store, and anybody may have written it (docs/adr/0018). So the same model, stored
again, finds its entries, and another model cannot.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from urllib.parse import quote_from_bytes

from redisai_py.bounded import BoundedCache
from redisai_py.model import Model
from redisai_py.store.codec import encode_header
from redisai_py.tensor import DType, Tensor

__all__ = ["PREFIX", "Names", "inputs_digest", "is_sampled", "model_part", "rows_of", "tensor_digest", "tensor_digests"]

PREFIX = b"ai:pred:"
_SHOWN = 16
_SAMPLED = 64
_EVERY = 64
_MOST_KEYS = 4096


def model_part(model: Model, backend_version: str) -> bytes:
    """32 bytes that identify the model. model: identified, with the names of its session."""
    parts = (
        model.sha256,
        model.backend.upper(),
        backend_version,
        model.device.kind,
        model.signature,
        model.inputs,
        model.outputs,
    )
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def tensor_digest(tensor: Tensor) -> bytes:
    """32 bytes that identify a tensor: SHA-256 of the string that it is in Redis. Takes 0.6 us per KiB."""
    digest = hashlib.sha256(encode_header(tensor))  # starts with its own length, and gives the number of data bytes
    digest.update(tensor.data)
    return digest.digest()


def tensor_digests(tensors: Sequence[Tensor]) -> list[bytes]:
    """`tensor_digest` of each."""
    return [tensor_digest(tensor) for tensor in tensors]


def inputs_digest(inputs: Sequence[Tensor]) -> bytes:
    """What identifies the inputs, independently of the model: the digests of all, joined."""
    return b"".join(tensor_digests(inputs))


class Names:
    """The keys of one model's predictions.

    Args: part: from `model_part`.   user: owner of the predictions; None if the whole database shares them.
    """

    __slots__ = ("_keys", "_start", "part", "pattern", "prefix")

    def __init__(self, part: bytes, user: bytes | None = None) -> None:
        self.part = part
        whose = b"" if user is None else b"user:%b:" % quote_from_bytes(user, safe="").encode()
        self.prefix = b"%b%b%b:" % (PREFIX, whose, part.hex()[:_SHOWN].encode())
        self.pattern = self.prefix + b"*"  # a prefix contains no special characters of MATCH
        self._start = hashlib.sha256(b"%d:" % len(user or b"") + part + (b"" if user is None else b"user:" + user))
        self._keys: BoundedCache[bytes, bytes] = BoundedCache(_MOST_KEYS)

    def key(self, inputs: bytes) -> bytes:
        """The key of the prediction for inputs with this digest."""
        key = self._keys.get(inputs)
        if key is None:
            digest = self._start.copy()
            digest.update(inputs)
            key = self._keys.keep(inputs, self.prefix + digest.hexdigest().encode())
        return key

    def bytes_key(self, bucket_s: int, index: int) -> bytes:
        """The counter of the bytes inserted within one period."""
        return b"%bbytes:%d:%d" % (self.prefix, bucket_s, index)


def is_sampled(inputs: Sequence[Tensor]) -> bool:
    """Whether these inputs belong to the one in 64 that are looked up while the cache stands aside.

    The choice depends on a few bytes of the content, so the same inputs are always chosen, and their hit rate is
    that of all inputs.
    """
    check = 0
    for tensor in inputs:
        data = tensor.data
        check = zlib.crc32(bytes(data[:: max(1, len(data) // _SAMPLED)]), check)
    return check % _EVERY == 0


def rows_of(inputs: Sequence[Tensor], rows: int) -> list[list[Tensor]] | None:
    """The inputs of each row, with a first dimension of 1; None if they cannot be split."""
    columns: list[list[Tensor]] = []
    for tensor in inputs:
        if tensor.dtype is DType.STRING or not tensor.shape or tensor.shape[0] != rows:
            return None
        shape = (1, *tensor.shape[1:])
        size = tensor.dtype.itemsize * math.prod(shape)
        data = tensor.data
        columns.append([Tensor(tensor.dtype, shape, data[at : at + size]) for at in range(0, rows * size, size or 1)])
    parts = [list(row) for row in zip(*columns, strict=True)]
    return parts if len(parts) == rows else None
