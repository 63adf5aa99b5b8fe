"""Messages between the supervisor and the front doors: frames without a payload (`framing`). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redisai_py.errors import ProtocolError
from redisai_py.framing import MAX_HEADER_BYTES, FrameReader, encode_frame

__all__ = ["LONGEST", "Unpacker", "pack"]

LONGEST = MAX_HEADER_BYTES
"""Maximum bytes of a message."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message. Raises: ProtocolError: it is longer than LONGEST."""
    (data,) = encode_frame(dict(message))
    if len(data) > LONGEST:
        raise ProtocolError(f"ERR a message of {len(data)} bytes is too long for the other front doors")
    return bytes(data)


class Unpacker:
    """Splits received bytes into messages."""

    def __init__(self) -> None:
        self._reader = FrameReader(max_payload_bytes=1, sender="another process")

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by these bytes. Raises: ProtocolError: the bytes are no valid message."""
        return [message for message, _ in self._reader.feed(data)]
