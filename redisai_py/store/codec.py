"""Tensor <-> Redis string, model and script <-> Redis hash. Pure: bytes in, values out.

A tensor is a one-tensor safetensors file (tensor name `tensor`), so anyone reads it with `safetensors.numpy.load`.
The header is padded with spaces so that the data starts 64-byte aligned. A STRING tensor is U8 data with
`__metadata__` that names dtype and shape. A foreign safetensors string is a tensor if it holds exactly one, of any
name, of a dtype we have.

Headers repeat: encoded ones are cached by (dtype, shape), decoded ones by their bytes, so both directions are one
dictionary look-up each. Source of the format: the safetensors specification; `docs/adr/0002`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from redisai_py.errors import CommandError, WrongType
from redisai_py.model import Model, Script
from redisai_py.tensor import MAX_RANK, Buffer, Device, DType, Tensor

__all__ = [
    "MAX_CHUNKS",
    "MAX_HEADER",
    "MODEL_META_FIELDS",
    "SCRIPT_FIELDS",
    "decode_model",
    "decode_script",
    "decode_tensor",
    "encode_header",
    "encode_model",
    "encode_script",
    "header_size",
    "read_header",
    "with_blob",
]

MAX_HEADER = 65535
"""Longest header accepted, in bytes: it must fit two bytes of the length, which is how a Lua check recognises a
tensor.
"""
_ALIGN = 64
_CACHE_LIMIT = 4096
_CACHED_HEADER = 512

_encoded: dict[tuple[DType, tuple[int, ...]], bytes] = {}
_decoded: dict[bytes, tuple[DType, tuple[int, ...], int]] = {}


def encode_header(tensor: Tensor) -> bytes:
    """The safetensors header (length word included) that goes before `tensor.data`; a multiple of 64 bytes."""
    if tensor.dtype is DType.STRING:
        return _string_header(tensor.shape, len(tensor.data))
    key = (tensor.dtype, tensor.shape)
    header = _encoded.get(key)
    if header is None:
        if len(_encoded) >= _CACHE_LIMIT:
            _encoded.clear()
        size = tensor.dtype.itemsize * math.prod(tensor.shape)
        header = _encoded[key] = _pad(_describe(tensor.dtype.safetensors_name, tensor.shape, size))
    return header


def _string_header(shape: Sequence[int], size: int) -> bytes:
    metadata = json.dumps({"dtype": "STRING", "shape": json.dumps(list(shape))}, separators=(",", ":"))
    return _pad('{"__metadata__":' + metadata + "," + _describe("U8", (size,), size)[1:])


def _describe(name: str, shape: Sequence[int], size: int) -> str:
    dims = ",".join(map(str, shape))
    return f'{{"tensor":{{"dtype":"{name}","shape":[{dims}],"data_offsets":[0,{size}]}}}}'


def _pad(text: str) -> bytes:
    body = text.encode()
    length = -(len(body) + 8) % _ALIGN + len(body)
    return struct.pack("<Q", length) + body.ljust(length)


def header_size(value: Buffer) -> int:
    """Length of the header that `value` starts with, its length word included. Raises WrongType if it is no tensor."""
    if len(value) < 9 or value[8] != 123:
        raise WrongType
    length: int = struct.unpack_from("<Q", value)[0]
    if length > MAX_HEADER:
        raise WrongType
    return length + 8


def read_header(header: bytes) -> tuple[DType, tuple[int, ...], int]:
    """(dtype, shape, bytes of data) of a whole header. Raises WrongType if it does not describe one tensor of ours."""
    known = _decoded.get(header)
    if known is None:
        known = _parse_header(header)
        if len(header) <= _CACHED_HEADER:  # a hostile one of 64 KiB must not stay in memory
            if len(_decoded) >= _CACHE_LIMIT:
                _decoded.clear()
            _decoded[header] = known
    return known


def decode_tensor(value: Buffer) -> Tensor:
    """The tensor in a Redis string; its data is a view of `value`, not a copy.

    Raises: WrongType: not safetensors, not exactly one tensor, a dtype we do not have, or offsets that do not add up.
    """
    start = header_size(value)
    if start > len(value):
        raise WrongType
    dtype, shape, size = read_header(bytes(value[:start]))
    if start + size != len(value):
        raise WrongType
    data = memoryview(value)[start:]
    if dtype is DType.STRING and (bytes(data).count(b"\0") != math.prod(shape) or (size and data[-1])):
        raise WrongType
    return Tensor(dtype, shape, data)


def _parse_header(header: bytes) -> tuple[DType, tuple[int, ...], int]:
    try:
        entries = json.loads(header[8:])
        metadata = entries.pop("__metadata__", {})
        (entry,) = entries.values()
        dtype, shape = DType.from_safetensors(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if metadata.get("dtype") == "STRING" and dtype is DType.UINT8:
            dtype, strings = DType.STRING, tuple(json.loads(metadata["shape"]))
            shape_ok, shape = shape == (end,), strings
        else:
            shape_ok = dtype is not None and end == dtype.itemsize * math.prod(shape)
        if (
            len(shape) > MAX_RANK
            or dtype is None
            or begin != 0
            or not shape_ok
            or not all(type(n) is int and n >= 0 for n in (end, *shape))
        ):
            raise WrongType
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WrongType from error
    return dtype, shape, end


# -- models and scripts ----------------------------------------------------------------------------------------------

MODEL_META_FIELDS = (
    b"kind", b"id", b"backend", b"device", b"tag", b"batchsize", b"minbatchsize", b"minbatchtimeout", b"inputs",
    b"outputs", b"chunks",
)  # fmt: skip
MAX_CHUNKS = 1 << 20
"""Most pieces of a model: whoever reads one asks for all by their names, and anybody may have written the count."""
SCRIPT_FIELDS = (b"kind", b"id", b"device", b"tag", b"entry_points", b"source")


def encode_model(model: Model, sha256: str, chunks: int) -> dict[bytes, bytes]:
    """The readable fields of a model's hash; the blob goes into fields `blob:0` ... of at most MODEL_CHUNK_SIZE
    bytes.
    """
    return {
        b"kind": b"MODEL",
        b"id": model.id.encode(),
        b"sha256": sha256.encode(),
        b"backend": model.backend.encode(),
        b"device": model.device.text.encode(),
        b"tag": model.tag,
        b"batchsize": b"%d" % model.batchsize,
        b"minbatchsize": b"%d" % model.minbatchsize,
        b"minbatchtimeout": b"%d" % model.minbatchtimeout_ms,
        b"inputs": json.dumps(model.inputs).encode(),
        b"outputs": json.dumps(model.outputs).encode(),
        b"chunks": b"%d" % chunks,
    }


def decode_model(values: Sequence[bytes | None]) -> tuple[Model, int]:
    """(model without its blob, number of blob fields) from the values of MODEL_META_FIELDS.

    Raises: WrongType if the hash is not a model.
    """
    fields: dict[bytes, Any] = dict(zip(MODEL_META_FIELDS, values, strict=True))
    if fields[b"kind"] != b"MODEL":
        raise WrongType
    try:
        model = Model(
            id=fields[b"id"].decode(),
            backend=fields[b"backend"].decode(),
            device=_stored_device(fields[b"device"]),
            tag=fields[b"tag"],
            batchsize=int(fields[b"batchsize"]),
            minbatchsize=int(fields[b"minbatchsize"]),
            minbatchtimeout_ms=int(fields[b"minbatchtimeout"]),
            inputs=tuple(json.loads(fields[b"inputs"])),
            outputs=tuple(json.loads(fields[b"outputs"])),
        )
        chunks = int(fields[b"chunks"])
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise WrongType from error
    if not 0 <= chunks <= MAX_CHUNKS:
        raise WrongType
    return model, chunks


def _stored_device(word: bytes) -> Device:
    """A device that was accepted when it was stored: AI.MODELSET and scripts take more than Device.parse does."""
    try:
        return Device.parse(word)
    except CommandError:
        text = word.decode()
        return Device("GPU" if text.upper().startswith("GPU") else "CPU", None, text)


def with_blob(model: Model, blob: bytes) -> Model:
    """The same model with its bytes."""
    return replace(model, blob=blob)


def encode_script(script: Script) -> dict[bytes, bytes]:
    """The readable fields of a script's hash."""
    return {
        b"kind": b"SCRIPT",
        b"id": script.id.encode(),
        b"device": script.device.text.encode(),
        b"tag": script.tag,
        b"entry_points": json.dumps(script.entry_points).encode(),
        b"source": script.source.encode(),
    }


def decode_script(values: Sequence[bytes | None]) -> Script:
    """The script from the values of SCRIPT_FIELDS. Raises WrongType if the hash is not a script."""
    fields: Mapping[bytes, Any] = dict(zip(SCRIPT_FIELDS, values, strict=True))
    if fields[b"kind"] != b"SCRIPT":
        raise WrongType
    try:
        return Script(
            id=fields[b"id"].decode(),
            device=_stored_device(fields[b"device"]),
            tag=fields[b"tag"],
            entry_points=tuple(json.loads(fields[b"entry_points"])),
            source=fields[b"source"].decode(),
        )
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise WrongType from error
