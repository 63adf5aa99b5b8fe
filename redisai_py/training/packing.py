"""Packing tensors into blobs of about 4 MiB, each a safetensors file, and unpacking them.

Packing is the only copy that a checkpoint makes: tensors go from their device straight to their place in a blob, from
which they are hashed and sent. A tensor larger than a blob is cut into flat pieces, so that an unchanged part is not
sent again; small tensors share a blob.

Source: the safetensors format, https://huggingface.co/docs/safetensors: 8 bytes of length, a JSON header, the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redisai_py.artifacts import Invalid
from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.names import version_number
from redisai_py.artifacts.tensor_files import StoredTensor, tensors_in
from redisai_py.training.state import Tensors

__all__ = ["BLOB_BYTES", "Buffers", "describe", "pack", "unpack"]

BLOB_BYTES = 4 * 1024 * 1024
_MOST_PIECES = 1 << 26
"""Of a tensor: 256 TiB."""
_ALONE_BYTES = BLOB_BYTES // 4
"""Tensors of at least this many bytes have their own blob, so a changed neighbour does not cause them to be sent."""

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint64: "U64",
    torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class _Piece:
    """The part of a tensor in one blob.   name: TENSOR, or TENSOR/PIECE."""

    name: str
    values: torch.Tensor

    @property
    def size(self) -> int:
        return self.values.numel() * self.values.element_size()


class Buffers:
    """Memory that successive checkpoints share: allocating new pages takes most of the time of a copy.

    One thread takes buffers, another gives them back, never at the same time.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[torch.Tensor]] = {}

    def take(self, size: int) -> torch.Tensor:
        """A buffer of `size` bytes, with arbitrary content."""
        free = self._free.get(size)
        return free.pop() if free else torch.empty(size, dtype=torch.uint8)

    def drop(self) -> None:
        """Drop the free buffers: the next checkpoint has other sizes."""
        self._free.clear()

    def give(self, blob: memoryview) -> None:
        """Return the buffer of a blob from `pack` that is no longer read."""
        self._free.setdefault(len(blob), []).append(torch.from_numpy(np.frombuffer(blob, np.uint8)))


def describe(tensors: Tensors) -> list[dict[str, Any]]:
    """Description of tensors for `unpack`, as JSON values. Raises: Invalid: a dtype that safetensors lacks."""
    unknown = [(path, tensor.dtype) for path, tensor in tensors if tensor.dtype not in _NAMES]
    if unknown:
        raise Invalid(f"{unknown[0][0]} has elements of {unknown[0][1]}, which a checkpoint does not hold")
    return [{"name": path, "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)} for path, tensor in tensors]


def pack(tensors: Tensors, note: str, buffers: Buffers) -> list[memoryview]:
    """Copy tensors into blobs.

    Args:    note: written into each blob's header; equal tensors with different notes give different blobs.
             buffers: memory for the blobs; unused buffers in it are dropped.
    Returns: the blobs; equal tensors give equal blobs.
    """
    blobs = [_packed(group, note, buffers) for group in _groups(_pieces(tensors))]
    buffers.drop()
    return blobs


def _pieces(tensors: Tensors) -> Iterator[_Piece]:
    for number, (_, tensor) in enumerate(tensors):
        size = tensor.numel() * tensor.element_size()
        if size <= BLOB_BYTES:
            yield _Piece(str(number), tensor)
            continue
        flat, step = tensor.reshape(-1), BLOB_BYTES // tensor.element_size()
        for place, start in enumerate(range(0, len(flat), step)):
            yield _Piece(f"{number}/{place}", flat[start : start + step])


def _groups(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Groups of pieces per blob: large pieces alone, small ones together."""
    small: list[_Piece] = []
    for piece in pieces:
        if piece.size >= _ALONE_BYTES:
            yield [piece]
            continue
        if small and sum(one.size for one in small) + piece.size > BLOB_BYTES:
            yield small
            small = []
        small.append(piece)
    if small:
        yield small


def _packed(group: Sequence[_Piece], note: str, buffers: Buffers) -> memoryview:
    header: dict[str, Any] = {"__metadata__": {"run": note}}
    ordered = sorted(group, key=lambda piece: -piece.values.element_size())  # keeps each one aligned
    end = 0
    for piece in ordered:
        entry = {"dtype": _NAMES[piece.values.dtype], "shape": list(piece.values.shape)}
        header[piece.name] = {**entry, "data_offsets": [end, end + piece.size]}
        end += piece.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    whole = buffers.take(begin + end)
    for piece in ordered:
        if piece.size:
            _copy(whole[begin : begin + piece.size], piece.values)
        begin += piece.size
    array: Any = whole.numpy()
    view = memoryview(array)
    view[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    return view


def _copy(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy elements as bytes. NumPy copies up to 7x as fast as PyTorch, which starts threads for it."""
    if values.device.type == "cpu" and values.is_contiguous():
        np.copyto(target.numpy(), values.reshape(-1).view(torch.uint8).numpy())
    else:
        target.view(values.dtype).view(values.shape).copy_(values)


def unpack(described: Any, blobs: Iterable[Buffer]) -> list[torch.Tensor]:
    """The tensors, on the CPU; holds one blob at a time besides them.

    Args:   described: the result of `describe`, untrusted.
    Raises: Invalid: the blobs do not match the description.
    """
    tensors = [_empty(entry) for entry in described] if isinstance(described, list) else []
    filled = [0] * len(tensors)
    for blob in blobs:
        for name, piece in tensors_in("a blob of a checkpoint", blob).items():
            _fill(tensors, filled, name, piece)
    for entry, tensor, count in zip(described if tensors else (), tensors, filled, strict=True):
        if count != tensor.numel():
            raise Invalid(f"a checkpoint holds {count} of {tensor.numel()} elements of {entry['name']}")
    return tensors


def _empty(entry: Any) -> torch.Tensor:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise Invalid("a checkpoint describes a tensor without a shape")
    if entry.get("dtype") not in _DTYPES or not isinstance(entry.get("name"), str):
        raise Invalid(f"a checkpoint describes a tensor of elements {str(entry.get('dtype'))[:40]}")
    try:
        return torch.empty(shape, dtype=_DTYPES[entry["dtype"]])
    except (RuntimeError, OverflowError) as error:
        raise Invalid(f"{entry['name'][:100]} cannot be held: {error}") from None


def _fill(tensors: Sequence[torch.Tensor], filled: list[int], name: str, piece: StoredTensor) -> None:
    number, _, place = name.partition("/")
    plain = version_number(number) is not None and (not place or version_number(place) is not None)
    if not plain or int(number) >= len(tensors) or int(place or 0) > _MOST_PIECES:
        raise Invalid(f"a blob of a checkpoint holds {name[:100]}, which is not described")
    tensor = tensors[int(number)]
    item = tensor.element_size()
    count = len(piece.data) // item
    start = int(place or 0) * (BLOB_BYTES // item)
    target = tensor.view(-1)[start : start + count]
    if piece.dtype != _NAMES[tensor.dtype] or target.numel() != count:
        raise Invalid(f"a blob of a checkpoint holds {name[:100]} in another type or size than described")
    if count:
        np.copyto(target.view(torch.uint8).numpy(), np.frombuffer(piece.data, np.uint8))
    filled[int(number)] += count
