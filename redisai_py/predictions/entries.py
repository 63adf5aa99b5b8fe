"""A prediction as a Redis string: a safetensors file that contains the digest of its own key. Pure.

A single output is the tensor `tensor`, so that AI.TENSORGET can read it. Several outputs have the names of the model's
outputs, or numbers if it has none. `__metadata__` holds the digest at the end of the key, so a value written under
another key, or for another purpose, is not accepted. As in `store.codec`, it also holds shape and dtype of STRING
outputs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence

from redisai_py.bounded import BoundedCache
from redisai_py.errors import WrongType
from redisai_py.store.codec import MAX_HEADER
from redisai_py.tensor import Buffer, DType, Tensor, is_shape

__all__ = ["decode_entry", "encode_entry", "output_names"]

_HEAD = b'{"__metadata__":{"prediction":"%b"'
_HEX = 64
_MARK_END = 8 + len(_HEAD % (b"0" * _HEX))
_ALIGN = 64
_KNOWN = 4096
_LONGEST_KNOWN = 1024

_Part = tuple[DType, tuple[int, ...], int, int]
_encoded: BoundedCache[tuple[object, ...], bytes] = BoundedCache(_KNOWN)
_decoded: BoundedCache[bytes, tuple[_Part, ...]] = BoundedCache(_KNOWN)


def output_names(outputs: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs in an entry."""
    if len(outputs) == 1:
        return ("tensor",)
    usable = len(set(outputs)) == len(outputs) and all(outputs) and "__metadata__" not in outputs
    return tuple(outputs) if usable else tuple(map(str, range(len(outputs))))


def encode_entry(key: bytes, names: tuple[str, ...], outputs: Sequence[Tensor]) -> list[Buffer]:
    """The string in pieces. key: ends with the prediction's digest. names: from `output_names`."""
    shapes = [(output.dtype, output.shape, len(output.data)) for output in outputs]
    asked = (names, *shapes)
    rest = _encoded.get(asked)
    if rest is None:
        rest = _encoded.keep(asked, _rest(names, shapes))
    length = _MARK_END - 8 + len(rest)
    return [struct.pack("<Q", length) + _HEAD % key[-_HEX:] + rest, *(output.data for output in outputs)]


def _rest(names: Sequence[str], shapes: Sequence[tuple[DType, tuple[int, ...], int]]) -> bytes:
    """The header after the digest, padded."""
    metadata: dict[str, str] = {}
    described: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, size) in zip(names, shapes, strict=True):
        dims: Sequence[int] = shape
        if dtype is DType.STRING:
            own = "" if len(names) == 1 else f"{name}."
            metadata |= {f"{own}dtype": "STRING", f"{own}shape": json.dumps(list(shape))}
            dims = (size,)
        described[name] = {
            "dtype": dtype.safetensors_name,
            "shape": list(dims),
            "data_offsets": [at, at + size],
        }
        at += size
    more = json.dumps(metadata, separators=(",", ":"))[1:-1]
    text = (f",{more}" if more else "") + "}," + json.dumps(described, separators=(",", ":"))[1:]
    body = text.encode("utf-8", "surrogateescape")
    return body.ljust(len(body) + -(_MARK_END + len(body)) % _ALIGN)


def decode_entry(key: bytes, value: Buffer, names: tuple[str, ...]) -> list[Tensor]:
    """The outputs, as views of `value`.

    Raises: WrongType: not the entry of this key, incomplete, or with another number of outputs.
    """
    if len(value) < _MARK_END or bytes(value[8:_MARK_END]) != _HEAD % key[-_HEX:]:
        raise WrongType
    start: int = struct.unpack_from("<Q", value)[0] + 8
    if not _MARK_END < start <= min(len(value), MAX_HEADER + 8):
        raise WrongType
    rest = bytes(value[_MARK_END:start])
    parts = _decoded.get(rest)
    if parts is None:
        parts = _parse(bytes(value[8:start]))
        if len(rest) <= _LONGEST_KNOWN:
            _decoded.keep(rest, parts)
    if len(parts) != len(names) or start + parts[-1][3] != len(value):
        raise WrongType
    view = memoryview(value)[start:]
    outputs = [Tensor(dtype, shape, view[begin:end]) for dtype, shape, begin, end in parts]
    for output in outputs:
        _check_strings(output)
    return outputs


def _check_strings(tensor: Tensor) -> None:
    data = tensor.data
    if tensor.dtype is DType.STRING and (bytes(data).count(b"\0") != tensor.size or (len(data) and data[-1])):
        raise WrongType


def _parse(header: bytes) -> tuple[_Part, ...]:
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__")
        own = len(entries) == 1
        parts = tuple(_part(name, entry, metadata, own) for name, entry in entries.items())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise WrongType from error
    ends = [0, *(end for _, _, _, end in parts)]
    if not parts or any(part[2] != end for part, end in zip(parts, ends[:-1], strict=True)):
        raise WrongType
    return parts


def _part(name: str, entry: dict[str, object], metadata: dict[str, str], alone: bool) -> _Part:
    """One output's dtype, shape and position. The text is untrusted; raises whatever parsing it raises."""
    dtype = DType.from_safetensors(str(entry["dtype"]))
    dims, offsets = entry["shape"], entry["data_offsets"]
    if dtype is None or not is_shape(dims, dtype) or type(offsets) is not list or len(offsets) != 2:
        raise WrongType
    begin, end = offsets
    if type(begin) is not int or type(end) is not int or end - begin != dtype.itemsize * math.prod(dims):
        raise WrongType
    prefix = "" if alone else f"{name}."
    if metadata.get(f"{prefix}dtype") == "STRING":
        dims = json.loads(metadata[f"{prefix}shape"])
        dtype = DType.STRING
        if not is_shape(dims, dtype):
            raise WrongType
    return dtype, tuple(dims), begin, end
