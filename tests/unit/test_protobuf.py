"""Protobuf's wire format: fields with their positions, and what is not a message."""

from __future__ import annotations

import pytest

from redisai_py.protobuf import BYTES, VARINT, fields, varint


def test_fields_have_number_wire_type_and_position() -> None:
    message = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d1234" + b"\x2112345678"
    assert list(fields(message)) == [
        (0, 1, VARINT, 1, 3),
        (3, 2, BYTES, 5, 8),
        (8, 3, 5, 9, 13),
        (13, 4, 1, 14, 22),
    ]
    assert list(fields(message, 3, 8)) == [(3, 2, BYTES, 5, 8)]


def test_surplus_bits_of_a_key_are_dropped_as_protobuf_does() -> None:
    key = b"\x92\x80\x80\x80\x70"  # field 2 of type BYTES, and bits above 2**32
    assert [number for _, number, _, _, _ in fields(key + b"\x01x")] == [2]


@pytest.mark.parametrize("data", [b"\x12\x05abc", b"\x1d12", b"\x08", b"\x0b", b"\x08" + b"\x80" * 10 + b"\x01"])
def test_what_is_not_a_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"truncated|wire type"):
        list(fields(data))


def test_numbers() -> None:
    assert varint(b"\x96\x01", 0) == (150, 2)
    assert varint(memoryview(b"..\x7f"), 2) == (127, 3)
    assert varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)
