"""Does an ONNX model keep weights in other files? Decided from its bytes, before ONNX Runtime may open a path in them.
The same pass finds the operators that draw random numbers.

A model from the network must not make the server read files (or, with ONNX Runtime's in-memory tags, addresses) of the
sender's choice. ONNX Runtime cannot switch that off, and the `onnx` package would be a large dependency for one check.
So this module walks the protobuf wire format along the few fields that lead to tensors. Field numbers: onnx.proto of
ONNX 1.16.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from redisai_py.backend import Blob
from redisai_py.protobuf import BYTES, FIXED_SIZES, VARINT, fields, varint

__all__ = ["fields_of", "has_external_data"]

# Message -> field number -> message type of that field.
_PATHS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_MAX_FIELDS = 3_000_000
"""A large model has a few hundred thousand fields; this many take seconds, during which the GIL blocks all clients."""
_SCALARS = re.compile(
    rb"(?:[%b][\x80-\xff]{0,9}[\x00-\x7f]|[%b].{8}|[%b].{4}){1,100000}+"
    % tuple(b"".join(b"\\x%02x" % key for key in range(kind, 128, 8)) for kind in (VARINT, *FIXED_SIZES)),
    re.DOTALL,
)
"""Fields in a row that lead nowhere. A forest of trees has tens of millions: each number is a field."""
_32_BITS = 0xFFFFFFFF
"""The bits that protobuf keeps of a key and of an enumeration, however many are sent."""
_DATA_LOCATION = 14
_EXTERNAL = 1
_INPUT, _OP_TYPE = 1, 4
_DRAW = frozenset(
    (b"RandomNormal", b"RandomNormalLike", b"RandomUniform", b"RandomUniformLike", b"Multinomial", b"Bernoulli")
)
_LONGEST_KIND = 64
_TRAINED_INPUTS = 3
"""A Dropout with this many inputs has one that may turn on training."""


def has_external_data(blob: Blob, drawing: set[str] | None = None) -> bool:
    """Whether any tensor of a serialised ModelProto is stored outside of it.

    Args:   drawing: receives the names of operators that draw random numbers.

    Raises: ValueError: not the wire format of an ONNX model, or too long to check. ONNX Runtime might still read such a
            blob (it skips groups), so the caller must refuse it.
    """
    pending = [("Model", memoryview(blob))]
    seen = count()
    while pending:
        message, data = pending.pop()
        if message == "Node" and drawing is not None:
            _note_drawing(data, drawing)
        if _scan(message, data, pending, seen):
            return True
    return False


def _scan(message: str, data: memoryview, pending: list[tuple[str, memoryview]], seen: Iterator[int]) -> bool:
    """Walk one message's fields; queue those that lead to tensors. Returns: True for an external tensor."""
    paths, at, end = _PATHS[message], 0, len(data)
    is_tensor = message == "Tensor"
    while at < end:
        if not is_tensor and (scalars := _SCALARS.match(data, at)):
            at = scalars.end()
            continue
        if next(seen) > _MAX_FIELDS:
            raise ValueError(f"more than {_MAX_FIELDS} fields")
        key, at = varint(data, at)
        key &= _32_BITS
        field, kind = key >> 3, key & 7
        if kind == BYTES:
            size, at = varint(data, at)
            if size > end - at:
                raise ValueError("truncated field")
            if field in paths:
                pending.append((paths[field], data[at : at + size]))
            at += size
        elif kind == VARINT:
            value, at = varint(data, at)
            if is_tensor and field == _DATA_LOCATION and value & _32_BITS == _EXTERNAL:
                return True
        elif kind in FIXED_SIZES:
            at += FIXED_SIZES[kind]
        else:  # no version of ONNX uses groups
            raise ValueError(f"wire type {kind}")
    return False


def _note_drawing(node: memoryview, drawing: set[str]) -> None:
    """Add the operator of a NodeProto if it draws random numbers. Raises: ValueError, as `_scan`."""
    kind, inputs = b"", 0
    for field, value in fields_of(node):
        if isinstance(value, memoryview):
            if field == _OP_TYPE:
                kind = bytes(value) if len(value) <= _LONGEST_KIND else b""
            inputs += field == _INPUT and len(value) > 0
    if kind in _DRAW or (kind == b"Dropout" and inputs >= _TRAINED_INPUTS):
        drawing.add(kind.decode())


def fields_of(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """A message's fields: number, and bytes or a number (0 for a number of a fixed size).

    Raises: ValueError: not the wire format of an ONNX model.
    """
    for _, number, kind, start, end in fields(message):
        if kind == BYTES:
            yield number, message[start:end]
        else:
            yield number, varint(message, start)[0] if kind == VARINT else 0
