"""Encoding for both clients: words as redis-py encodes them; large ones are neither copied nor joined. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from redisai_py.client.call import Call, Progress
from redisai_py.resp.templates import encode_command

__all__ = ["Encoder", "debug_words", "decode_strings", "flag", "pack", "reported"]

_PIECE_SIZE = 1024 * 1024
_SMALL_COMMAND = 64 * 1024


class Encoder(Protocol):
    """redis-py's encoder of one connection."""

    def encode(self, value: Any) -> Any:
        """A word as bytes. Raises: redis.DataError for an unsupported value."""


def pack(call: Call[Any], encoder: Encoder) -> list[bytes | memoryview]:
    """The bytes of a call in segments; in a large command, arguments of 16 KiB and more remain separate buffers."""
    encode = encoder.encode
    segments = encode_command([word if type(word) is tuple else encode(word) for word in call.argv])
    # Each segment costs redis-py a system call.
    if len(segments) > 1 and sum(map(len, segments)) < _SMALL_COMMAND:
        return [b"".join(segments)]
    return segments


def debug_words(call: Call[Any]) -> list[Any]:
    """The words for `debug` output, with data in any buffer shown as bytes."""
    return [bytes(word) if isinstance(word, (memoryview, bytearray)) else word for word in call.argv]


def flag(name: str, value: Any) -> bool:
    """Check a switch of a client. Raises: TypeError: not a bool, but for example an address."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True or False, not {value!r}; an address is given by keyword: host='localhost', port=6390"
        )
    return value


def reported(segments: list[bytes | memoryview], progress: Progress) -> Iterator[bytes | memoryview]:
    """Cut segments into pieces of at most 1 MiB, and report each when the next one is asked for."""
    total = sum(map(len, segments))
    sent = 0
    for segment in segments:
        view = memoryview(segment)
        for start in range(0, len(view), _PIECE_SIZE):
            piece = view[start : start + _PIECE_SIZE]
            yield piece
            sent += len(piece)
            progress(sent, total)


def decode_strings(value: Any, encoder: Any) -> Any:
    """A reply that was read undecoded, with its strings decoded as redis-py's `decode_responses` would."""
    if isinstance(value, list):
        return [decode_strings(item, encoder) for item in value]
    if isinstance(value, dict):
        return {decode_strings(key, encoder): decode_strings(item, encoder) for key, item in value.items()}
    if isinstance(value, set):
        return {decode_strings(item, encoder) for item in value}
    return encoder.decode(value, force=True) if isinstance(value, bytes) else value
