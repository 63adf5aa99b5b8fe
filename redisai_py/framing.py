"""Frames between processes of the server. Pure: bytes in, frames out.

A frame is a 12-byte prefix (`>IQ`: header bytes, payload bytes), a JSON header padded with spaces to a multiple of 16
bytes, so that the payload is aligned, and a raw payload. No pickle: a process that runs users' models or scripts may be
compromised, and must not run code in another one. So nothing in a frame is trusted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redisai_py.errors import ProtocolError

if TYPE_CHECKING:  # the supervisor has no use for numpy
    from redisai_py.tensor import Buffer

__all__ = ["ALIGNMENT", "MAX_HEADER_BYTES", "Frame", "FrameReader", "encode_frame"]

PREFIX = struct.Struct(">IQ")
ALIGNMENT = 16
MAX_HEADER_BYTES = 1 << 24
JOIN_BYTES = 1 << 16
SCRATCH_BYTES = 1 << 16

Frame = tuple[dict[str, Any], memoryview]
"""Header and payload."""


def encode_frame(header: dict[str, Any], parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Buffers to write for one frame: a single one if the frame is small; otherwise `parts` are not copied."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    size = sum(len(part) for part in parts)
    head = PREFIX.pack(len(text), size) + text
    if size <= JOIN_BYTES:
        return [b"".join((head, *parts))]
    return [head, *(part for part in parts if len(part))]


class FrameReader:
    """Bytes in, frames out: a small frame costs one read, and a large payload is received straight into its own memory.

    max_payload_bytes: larger ones are refused; 0 means no limit.   sender: who sends them, for the text of errors.
    """

    def __init__(self, max_payload_bytes: int = 0, sender: str = "script worker") -> None:
        self._max_payload_bytes = max_payload_bytes
        self._sender = sender
        self._scratch = bytearray(SCRATCH_BYTES)
        self._body: bytearray | None = None
        """Header and payload of a frame that exceeds the scratch memory."""
        self._header_size = 0
        self._filled = 0

    def buffer(self) -> memoryview:
        """Memory for the next bytes; never empty."""
        return memoryview(self._scratch if self._body is None else self._body)[self._filled :]

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete. Raises: see `received`."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            buffer = self.buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            frames += self.received(count)
            rest = rest[count:]
        return frames

    def received(self, count: int) -> list[Frame]:
        """`count` bytes were put into `buffer()`. Returns: the frames that they complete.

        Raises: ProtocolError: sizes beyond the limits, or a header that is not a JSON object.
        """
        self._filled += count
        if self._body is None:
            return self._small_frames()
        if self._filled < len(self._body):
            return []
        frame = (self._parse(self._body[: self._header_size]), memoryview(self._body)[self._header_size :])
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
                frames.append((self._parse(scratch[start:middle]), memoryview(scratch[middle:end])))
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
            raise ProtocolError(f"ERR {self._sender} sent a frame of {header} and {payload} bytes")

    def _parse(self, text: bytearray) -> dict[str, Any]:
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise ProtocolError(f"ERR {self._sender} sent a malformed header")
        return header
