"""Messages between the supervisor and the front doors: JSON in frames, a length of four bytes in front. Pure.

No pickle: a front door runs models of users, and one that was taken over must not run code in the supervisor.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from redisai_py.errors import ProtocolError

__all__ = ["LONGEST", "Unpacker", "pack"]

LONGEST = 16 * 1024 * 1024
"""Bytes of one message."""
_LENGTH = struct.Struct("<I")


def pack(message: Mapping[str, Any]) -> bytes:
    """The message as it is sent. Raises: ProtocolError: it is longer than LONGEST."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LONGEST:
        raise ProtocolError(f"ERR a message of {len(body)} bytes is too long for the other front doors")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Takes bytes as they come, gives whole messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now. Raises: ProtocolError: what came is no message."""
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
        raise ProtocolError("ERR a message is no JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("ERR a message is no object")
    return message
