"""Messages between the supervisor and the front doors: JSON, preceded by its length in four bytes. Pure.

No pickle: a front door runs users' models, and a compromised one must not run code in the supervisor.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from redisai_py.errors import ProtocolError

__all__ = ["LONGEST", "Unpacker", "pack"]

LONGEST = 16 * 1024 * 1024
"""Maximum bytes of a message."""
_LENGTH = struct.Struct("<I")


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message. Raises: ProtocolError: it is longer than LONGEST."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LONGEST:
        raise ProtocolError(f"ERR a message of {len(body)} bytes is too long for the other front doors")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Splits received bytes into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by these bytes. Raises: ProtocolError: the bytes are no valid message."""
        received = self._received
        received += data
        messages = []
        at = 0
        while len(received) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(received, at)
            if size > LONGEST:
                raise ProtocolError(f"ERR a message announces {size} bytes")
            end = at + _LENGTH.size + size
            if len(received) < end:
                break
            messages.append(_message(received[at + _LENGTH.size : end]))
            at = end
        del received[:at]
        return messages


def _message(body: bytearray) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("ERR a message is not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("ERR a message is not an object")
    return message
