"""The worker's end of the socket to the server: frames, and tensors in them.

A frame is a 12-byte prefix (`>IQ`: header bytes, payload bytes), a JSON header and a raw payload. The server's end of
the same format is `redisai_py.engine.torchscript.frames`; docs/adr/0009 explains why there are two: a plugin imports
nothing of the server.

Rules: blocking, one thread, no framework objects but torch tensors. A lost server ends the process (`EOFError`).
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from redisai_py.errors import BackendError
from redisai_py.tensor import Buffer, DType
from redisai_py_torch._dtypes import NO_STRINGS, TORCH_DTYPES, unsupported

__all__ = ["Channel", "decode_tensors", "encode_head", "encode_output", "encode_tensors", "input_at"]

_PREFIX = struct.Struct(">IQ")
_ALIGNMENT = 16
_JOIN_BYTES = 1 << 16

_BY_NAME = {dtype.name: kind for dtype, kind in TORCH_DTYPES.items()}
_NAMES = {kind: name for name, kind in _BY_NAME.items()}
_DTYPES = {kind: dtype for dtype, kind in TORCH_DTYPES.items()}

Meta = list[Any]
"""One tensor in a header: [dtype name, shape, bytes]."""


class Channel:
    """Frames over one connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._scratch = memoryview(bytearray(_JOIN_BYTES))

    def send_plain(self, frame: bytes) -> None:
        """Send a frame that is encoded already."""
        self._sock.sendall(frame)

    def send(self, header: dict[str, Any], parts: Sequence[Any] = ()) -> None:
        """Send one frame; `parts` are byte buffers that make up the payload."""
        size = sum(len(part) for part in parts)
        head = encode_head(header, size)
        if size <= _JOIN_BYTES:
            self._sock.sendall(b"".join((head, *parts)))
            return
        self._sock.sendall(head)
        for part in parts:
            self._sock.sendall(part)

    def receive(self) -> tuple[dict[str, Any], memoryview]:
        """The next frame; its payload is writable memory that nobody else uses.

        Raises: EOFError: the server is gone.   MemoryError: the payload exceeds the memory limit.
        """
        filled = self._fill(self._scratch, 0, _PREFIX.size)
        header_size, payload_size = _PREFIX.unpack_from(self._scratch)
        body = memoryview(bytearray(header_size + payload_size))
        # The server sends nothing after a frame until it is answered, so all bytes read belong to this frame.
        body[: filled - _PREFIX.size] = self._scratch[_PREFIX.size : filled]
        self._fill(body, filled - _PREFIX.size, len(body))
        header: dict[str, Any] = json.loads(bytes(body[:header_size]))
        return header, body[header_size:]

    def _fill(self, view: memoryview, filled: int, least: int) -> int:
        while filled < least:
            received = self._sock.recv_into(view[filled:])
            if received == 0:
                raise EOFError
            filled += received
        return filled


def encode_head(header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """A frame up to its payload."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)  # numbers behind it are aligned
    return _PREFIX.pack(len(text), payload_bytes) + text


def decode_tensors(metas: Iterable[Meta], payload: memoryview, offset: int = 0) -> tuple[list[torch.Tensor], int]:
    """Tensors on the CPU that share the payload's memory, and the offset after the last one.

    Raises: BackendError for STRING, which torch does not have (text: 02 section 11 of RedisAI's command reference).
    """
    tensors = []
    for name, shape, size in metas:
        dtype = _BY_NAME.get(name)
        if dtype is None:
            raise BackendError(NO_STRINGS)
        count = math.prod(shape)
        if count:
            flat = torch.frombuffer(payload, dtype=dtype, count=count, offset=offset)
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors.append(flat.reshape(shape))
        offset += size + -size % _ALIGNMENT
    return tensors, offset


def encode_tensors(tensors: Iterable[torch.Tensor]) -> tuple[list[Meta], list[Any]]:
    """Headers and payload parts of tensors on any device; at most one copy (device, strides).

    Raises: BackendError for dtypes that RedisAI's tensors do not have (complex, quantised, float8 ...).
    """
    metas: list[Meta] = []
    parts: list[Any] = []
    for tensor in tensors:
        name = _NAMES.get(tensor.dtype)
        if name is None:
            raise unsupported(tensor.dtype)
        flat = _dense(tensor.detach()).reshape(-1)
        size = flat.numel() * flat.element_size()
        metas.append([name, list(tensor.shape), size])
        if size:
            parts.append(flat.view(torch.uint8).numpy().data)
            parts.append(bytes(-size % _ALIGNMENT))
    return metas, parts


def input_at(memory: memoryview, dtype: DType, shape: tuple[int, ...], nbytes: int, offset: int) -> torch.Tensor:
    """A tensor on the CPU that shares this memory. Raises: BackendError: see `decode_tensors`."""
    kind = TORCH_DTYPES.get(dtype)
    if kind is None:
        raise BackendError(NO_STRINGS)
    if not nbytes:
        return torch.empty(shape, dtype=kind)
    count = nbytes // dtype.itemsize
    flat = torch.frombuffer(memory, dtype=kind, count=count, offset=offset)
    return flat if shape == (count,) else flat.reshape(shape)


def encode_output(tensor: torch.Tensor) -> tuple[DType, tuple[int, ...], Buffer]:
    """Element type, shape and data of a tensor on any device, in memory of its own. Raises: see `encode_tensors`."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise unsupported(tensor.dtype)
    try:
        data = tensor.numpy().tobytes()
    except (TypeError, RuntimeError):  # not on the CPU, not dense, lazily negated, or no type of numpy's
        flat = _dense(tensor.detach()).reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return dtype, tensor.shape, data


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, in C order."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()  # applies a lazy minus sign, which raw memory does not show
    return tensor.cpu().contiguous()
