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
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from redisai_py.blobs import Blob
from redisai_py.bounded import BoundedCache
from redisai_py.errors import CommandError, WrongType
from redisai_py.model import Kind, Model, Script
from redisai_py.tensor import Buffer, Device, DType, Tensor, is_shape

__all__ = [
    "HEADERS",
    "MAX_CHUNKS",
    "MAX_HEADER",
    "MODEL_META_FIELDS",
    "SCRIPT_FIELDS",
    "decode_id",
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
"""Longest header accepted, in bytes: it fits into two bytes of the length, by which a Lua check recognises a
tensor.
"""
_ALIGN = 64
_CACHE_LIMIT = 4096
_CACHED_HEADER = 512

_decoded: BoundedCache[bytes, tuple[DType, tuple[int, ...], int]] = BoundedCache(_CACHE_LIMIT)


class _Headers(BoundedCache[tuple[DType, tuple[int, ...]], bytes]):
    """Encodes a missing header."""

    def __missing__(self, kind: tuple[DType, tuple[int, ...]]) -> bytes:
        dtype, shape = kind
        return self.keep(kind, _pad(_describe(dtype.safetensors_name, shape, dtype.itemsize * math.prod(shape))))


HEADERS = _Headers(_CACHE_LIMIT)
"""The safetensors header (with its length word) by dtype and shape; a multiple of 64 bytes. Not of STRING, whose header
depends on the data.
"""


def encode_header(tensor: Tensor) -> bytes:
    """The header before `tensor.data`."""
    if tensor.dtype.is_string:
        return _string_header(tensor.shape, len(tensor.data))
    return HEADERS[tensor.dtype, tensor.shape]


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
    """Length of the header at the start of `value`, including its length word. Raises WrongType if not a tensor."""
    if len(value) < 9 or value[8] != 123:
        raise WrongType
    length: int = struct.unpack_from("<Q", value)[0]
    if length > MAX_HEADER:
        raise WrongType
    return length + 8


def read_header(header: bytes) -> tuple[DType, tuple[int, ...], int]:
    """(dtype, shape, bytes of data) of a whole header. Raises WrongType unless it describes one supported tensor."""
    known = _decoded.get(header)
    if known is None:
        known = _parse_header(header)
        if len(header) <= _CACHED_HEADER:  # do not keep a hostile header of 64 KiB in memory
            _decoded.keep(header, known)
    return known


def decode_tensor(value: Buffer) -> Tensor:
    """The tensor in a Redis string; its data is a view of `value`, not a copy.

    Raises: WrongType: not safetensors, not exactly one tensor, an unsupported dtype, or inconsistent offsets.
    """
    start = header_size(value)
    if start > len(value):
        raise WrongType
    dtype, shape, size = read_header(bytes(value[:start]))
    if start + size != len(value):
        raise WrongType
    data = memoryview(value)[start:]
    if dtype.is_string and (bytes(data).count(b"\0") != math.prod(shape) or (size and data[-1])):
        raise WrongType
    return Tensor(dtype, shape, data)


def _parse_header(header: bytes) -> tuple[DType, tuple[int, ...], int]:
    """Parse a header. It is untrusted: types and ranges are checked before use."""
    try:
        entries = json.loads(header[8:].decode())
    except (ValueError, RecursionError) as error:
        raise WrongType from error
    metadata = entries.pop("__metadata__", {}) if type(entries) is dict else None
    if type(metadata) is not dict or len(entries) != 1:
        raise WrongType
    (entry,) = entries.values()
    if type(entry) is not dict:
        raise WrongType
    name, dims, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    dtype = DType.from_safetensors(name) if type(name) is str else None
    if dtype is None or not is_shape(dims, dtype):
        raise WrongType
    size = dtype.itemsize * math.prod(dims)
    if type(offsets) is not list or any(type(at) is not int for at in offsets) or offsets != [0, size]:
        raise WrongType
    if dtype is DType.UINT8 and metadata.get("dtype") == "STRING":
        if len(dims) != 1:
            raise WrongType
        dtype, dims = DType.STRING, _string_shape(metadata.get("shape"))
    return dtype, tuple(dims), size


def _string_shape(text: object) -> list[int]:
    """The shape of a STRING tensor, from its metadata text."""
    if type(text) is not str:
        raise WrongType
    try:
        dims = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongType from error
    if not is_shape(dims, DType.STRING):
        raise WrongType
    return dims


# -- models and scripts ----------------------------------------------------------------------------------------------

MODEL_META_FIELDS = (
    b"kind", b"id", b"backend", b"device", b"tag", b"batchsize", b"minbatchsize", b"minbatchtimeout", b"inputs",
    b"outputs", b"chunks", b"signature",
)  # fmt: skip
MAX_CHUNKS = 1 << 20
"""Maximum pieces of a model: a reader asks for all of them by name, and the count is untrusted."""
_LONGEST_SIGNATURE = 4096
_LONGEST_ID = 128
_LONGEST_BACKEND = 64
_LONGEST_NUMBER = 19
_INT64_MAX = 2**63 - 1
_MOST_KEPT_SOURCE = 64 * 1024
SCRIPT_FIELDS = (b"kind", b"id", b"device", b"tag", b"entry_points", b"source")


def encode_model(model: Model, sha256: str, chunks: int) -> dict[bytes, bytes]:
    """The readable fields of a model's hash; the blob goes into fields `blob:0` ... of at most MODEL_CHUNK_SIZE
    bytes.
    """
    return {
        b"kind": Kind.MODEL.value,
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
        **({b"signature": model.signature.encode("utf-8", "surrogateescape")} if model.signature else {}),
    }


def decode_id(value: bytes | None) -> str:
    """A stored `id`. Raises WrongType: missing, too long or not UTF-8, unlike any id of ours."""
    return _text(value, _LONGEST_ID)


def decode_model(values: Sequence[bytes | None]) -> tuple[Model, int]:
    """(model without its blob, number of blob fields) from the values of MODEL_META_FIELDS.

    The hash is untrusted, so every field must have a form that our own stores write.
    Raises: WrongType if the hash is not a model.
    """
    fields = dict(zip(MODEL_META_FIELDS, values, strict=True))
    if fields[b"kind"] != Kind.MODEL.value:
        raise WrongType
    model = Model(
        id=decode_id(fields[b"id"]),
        backend=_text(fields[b"backend"], _LONGEST_BACKEND),
        device=_device(fields[b"device"]),
        tag=fields[b"tag"] or b"",
        batchsize=_number(fields[b"batchsize"]),
        minbatchsize=_number(fields[b"minbatchsize"]),
        minbatchtimeout_ms=_number(fields[b"minbatchtimeout"]),
        inputs=_names(fields[b"inputs"]),
        outputs=_names(fields[b"outputs"]),
        signature=_text(fields[b"signature"], _LONGEST_SIGNATURE) if fields[b"signature"] else "",
    )
    chunks = _number(fields[b"chunks"])
    if chunks > MAX_CHUNKS:
        raise WrongType
    return model, chunks


def _text(value: bytes | None, longest: int) -> str:
    if not value or len(value) > longest:
        raise WrongType
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WrongType from error


def _number(value: bytes | None) -> int:
    """A count in the form that stores write: digits, within int64."""
    if not value or len(value) > _LONGEST_NUMBER or not value.isdigit() or (number := int(value)) > _INT64_MAX:
        raise WrongType
    return number


def _device(value: bytes | None) -> Device:
    """A device that any command accepts: AI.MODELSET and scripts accept more than AI.MODELSTORE."""
    try:
        return Device.parse_loosely(value or b"", "")
    except CommandError as error:
        raise WrongType from error


def _names(value: bytes | None) -> tuple[str, ...]:
    """A JSON list of printable names; bytes that are not UTF-8 are lone surrogates in it."""
    try:
        names = json.loads(value.decode()) if value is not None else None
        if type(names) is not list or not all(type(name) is str for name in names):
            raise WrongType
        for name in names:
            name.encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError) as error:
        raise WrongType from error
    return tuple(names)


def with_blob(model: Model, blob: Blob) -> Model:
    """The same model with its bytes."""
    return replace(model, blob=blob)


def encode_script(script: Script) -> dict[bytes, bytes]:
    """The readable fields of a script's hash."""
    return {
        b"kind": Kind.SCRIPT.value,
        b"id": script.id.encode(),
        b"device": script.device.text.encode(),
        b"tag": script.tag,
        b"entry_points": json.dumps(script.entry_points).encode(),
        b"source": script.source.encode("utf-8", "surrogateescape"),
    }


def decode_script(values: Sequence[bytes | None]) -> Script:
    """The script from the values of SCRIPT_FIELDS. Raises WrongType if the hash is not a script."""
    source = values[-1]
    decode = _decode_again if type(source) is bytes and len(source) <= _MOST_KEPT_SOURCE else _decode_script
    return decode(tuple(values))


def _decode_script(values: tuple[bytes | None, ...]) -> Script:
    fields = dict(zip(SCRIPT_FIELDS, values, strict=True))
    source = fields[b"source"]
    if fields[b"kind"] != Kind.SCRIPT.value or source is None:
        raise WrongType
    return Script(
        id=decode_id(fields[b"id"]),
        device=_device(fields[b"device"]),
        tag=fields[b"tag"] or b"",
        entry_points=_names(fields[b"entry_points"]),
        source=source.decode("utf-8", "surrogateescape"),  # for example a comment in Latin-1
    )


_decode_again = lru_cache(maxsize=64)(_decode_script)
"""Every call of a script reads it. Computing its identity takes a SHA-256, so cache that by the bytes."""
